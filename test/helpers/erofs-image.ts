import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'

/** Reason to skip what mounts EROFS images from plain files; false where that works. */
export const erofsMissing = missing()

function missing(): string | false {
  if (process.geteuid?.() !== 0) return 'needs root'
  if (spawnSync('mkfs.erofs', ['--help']).error) return 'needs mkfs.erofs (Debian package erofs-utils)'
  if (!/\berofs$/m.test(readFileSync('/proc/filesystems', 'utf8'))) return 'this kernel has no EROFS'
  return false
}

/** An image whose file data lies on a device of its own. */
export interface ErofsImage {
  /** Metadata only. */
  bootstrap: string
  /** All zeros and holes, of full size: to be filled. */
  device: string
  /** What belongs into the device. */
  content: Buffer
}

/** Makes an image of the files (name to content) in the directory. */
export function makeErofsImage(directory: string, files: Record<string, Buffer>): ErofsImage {
  const [tree, bootstrap, blob, device] = ['tree', 'bootstrap', 'blob', 'device'].map(n =>
    path.join(directory, n),
  )
  mkdirSync(tree!)
  for (const [name, content] of Object.entries(files)) writeFileSync(path.join(tree!, name), content)
  const options = ['--chunksize=4096', `--blobdev=${blob}`, bootstrap!, tree!]
  execFileSync('mkfs.erofs', ['-x-1', ...options], { stdio: 'ignore' })
  closeSync(openSync(device!, 'w'))
  truncateSync(device!, statSync(blob!).size)
  return { bootstrap: bootstrap!, device: device!, content: readFileSync(blob!) }
}

/** Rewrites the image's device table to `count` entries, all but the first of them one block long and unused. */
export function growDeviceTable(image: ErofsImage, count: number): void {
  const bytes = readFileSync(image.bootstrap)
  const table = Buffer.alloc(count * 128)
  const first = bytes.readUInt16LE(1024 + 88) * 128
  bytes.copy(table, 0, first, first + 128)
  for (let at = 128; at < table.length; at += 128) table.writeUInt32LE(1, at + 64)
  bytes.writeUInt32LE(bytes.readUInt32LE(1024 + 8) & ~1, 1024 + 8) // no checksum of the superblock any more
  bytes.writeUInt16LE(count, 1024 + 86)
  bytes.writeUInt16LE(bytes.length / 128, 1024 + 88)
  const padding = Buffer.alloc(-table.length & 4095)
  writeFileSync(image.bootstrap, Buffer.concat([bytes, table, padding]))
}
