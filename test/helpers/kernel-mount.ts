/** What the kernel shows of a bootstrap of ours, with all of its data beside it. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import { FileSource, MemorySource } from '../../src/common/byte-source.js'
import { Bootstrap } from '../../src/erofs/bootstrap.js'
import { mountErofs, unmount } from '../../src/native/mount.js'
import { decodeBlob } from './rafs-tree.js'

const TIMEOUT_MS = 10_000

/** Writes the uncompressed devices of the image's blobs, which lie in the directory under their ids. */
async function writeDevices(directory: string, blobs: string, bootstrap: Bootstrap): Promise<string[]> {
  const devices = []
  for (const blob of bootstrap.blobs) {
    const device = path.join(directory, `${blob.blobId}.data`)
    const source = new FileSource(path.join(blobs, blob.blobId))
    writeFileSync(device, (await decodeBlob(bootstrap, blob, source)).space)
    source.close()
    devices.push(device)
  }
  return devices
}

/**
 * Mounts a bootstrap that erofs-utils accepts, and looks at it.
 * @param blobs - directory of the stored blobs, by their ids
 */
export async function withKernelMount<T>(
  t: Test,
  { directory, blobs = directory, bytes }: { directory: string; blobs?: string; bytes: Buffer },
  look: (target: string) => T | Promise<T>,
): Promise<T> {
  const file = path.join(directory, 'image.boot')
  writeFileSync(file, bytes)
  const devices = await writeDevices(directory, blobs, Bootstrap.open(new MemorySource(bytes)))
  const fsck = spawnSync('fsck.erofs', [...devices.map(one => `--device=${one}`), file], { encoding: 'utf8' })
  t.equal(fsck.status, 0, fsck.stderr)
  const target = path.join(directory, 'mount')
  mkdirSync(target)
  await mountErofs({ source: file, devices, target, timeoutMs: TIMEOUT_MS })
  try {
    return await look(target)
  } finally {
    await unmount(target, { timeoutMs: TIMEOUT_MS })
    for (const device of devices) rmSync(device)
  }
}
