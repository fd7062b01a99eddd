/**
 * What a program's first start fetches: `node -v` in the demo's image, beside what the same start leaves in the page
 * cache of a plain copy of the files, rounded to whole chunks. Uncompressed chunks, so that bytes are bytes. The copy is
 * a plain EROFS image: its read-ahead is the kernel's 128 KiB, whatever the disk's may be (8 MiB was seen).
 */
import {
  closeSync,
  createReadStream,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  statSync,
} from 'node:fs'
import path from 'node:path'
import { readResidentPages } from '../src/native/file.js'
import { mountErofs, unmount } from '../src/native/mount.js'
import { writeImage } from '../demo/image.js'
import { applicationLayer, busyboxLayer, nodeLayer } from '../demo/layers.js'
import { mebibytes, median, report, runCommand } from './figures.js'
import { dropPageCache, type Stage } from './stage.js'

const CHUNK = 1 << 20
const PAGE = 4096

interface Layout {
  manifests: { digest: string }[]
}
interface Manifest {
  layers: { digest: string }[]
}

export async function benchFirstRun(stage: Stage, rounds: number): Promise<void> {
  const layout = path.join(stage.directory, 'layout')
  await writeImage(layout, 'app', [busyboxLayer(), nodeLayer(), applicationLayer()], {})
  const blob = (digest: string): string => path.join(layout, 'blobs/sha256', digest.slice(7))
  const index = JSON.parse(readFileSync(path.join(layout, 'index.json'), 'utf8')) as Layout
  const manifest = JSON.parse(readFileSync(blob(index.manifests[0]?.digest ?? ''), 'utf8')) as Manifest
  const layers = manifest.layers.map(({ digest }) => blob(digest))
  const plain = path.join(stage.directory, 'plain')
  mkdirSync(plain)
  for (const layer of layers) await runCommand('tar', ['-xzf', layer, '-C', plain])
  const image = await stage.push(
    layers.map(layer => createReadStream(layer)),
    'none',
  )
  const [source, copy] = [path.join(stage.directory, 'plain.erofs'), path.join(stage.directory, 'copy')]
  await runCommand('mkfs.erofs', ['--quiet', source, plain])
  mkdirSync(copy)
  await mountErofs({ source, devices: [], target: copy, timeoutMs: 10_000 })
  const fetched: number[] = []
  const needed: number[] = []
  for (let round = 0; round < rounds; round++) {
    dropPageCache()
    await runCommand('chroot', [copy, '/usr/bin/node', '-v'])
    needed.push(residentChunkBytes(copy))
    const mounted = await stage.mount(image)
    dropPageCache()
    const seen = stage.registry.accessLog.length
    await runCommand('chroot', [mounted.mountpoint, '/usr/bin/node', '-v'])
    await mounted.end()
    const answers = stage.registry.accessLog.slice(seen).filter(({ method }) => method === 'GET')
    fetched.push(answers.reduce((sum, { bytes }) => sum + bytes, 0))
  }
  await unmount(copy, { timeoutMs: 10_000 })
  const [ours, theirs] = [median(fetched), median(needed)]
  report({
    name: 'node -v in the demo image: bytes fetched of chunks needed',
    value: ours / theirs,
    target: { atMost: 1.3 },
    detail: `${mebibytes(ours)} of ${mebibytes(theirs)}`,
  })
}

/** Bytes of all chunks of the files below `directory` of which at least one page is in the page cache. */
function residentChunkBytes(directory: string): number {
  let total = 0
  for (const item of readdirSync(directory, { withFileTypes: true, recursive: true })) {
    if (!item.isFile()) continue
    const file = path.join(item.parentPath, item.name)
    const { size } = statSync(file)
    if (size === 0) continue
    const fd = openSync(file, 'r')
    const pages = readResidentPages(fd, size)
    closeSync(fd)
    for (let at = 0; at < size; at += CHUNK) {
      if (pages.subarray(at / PAGE, (at + CHUNK) / PAGE).includes(1)) total += Math.min(CHUNK, size - at)
    }
  }
  return total
}
