/**
 * A process that fills a chunk cache and makes snapshots on one disk for tests of power cuts.
 *
 *   power-cut-work.js DIRECTORY LOG ACKS flushed|unflushed
 *
 * ACKS gets a line for each call of the snapshotter that was answered, with the size that LOG, the disk's log of writes,
 * had by then. `unflushed` takes the flush of a cache file away: what such a cache says is not to be trusted.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import path from 'node:path'
import type { BlobReader } from '../../src/backend/reader.js'
import type { CachedBlob } from '../../src/cache/cached-blob.js'
import type { ChunkCache } from '../../src/cache/chunk-cache.js'
import { describeBlobs } from '../../src/cache/image-blobs.js'
import { MemorySource } from '../../src/common/byte-source.js'

import { FakeReader, noise } from './fake-blob.js'
import { buildImage, type TestImage, type TestNode } from './rafs-image.js'

/** Files of 1 to 40,000 bytes in chunks of one block. */
export function powerCutImages(): TestImage[] {
  return [undefined, 3].map((batch, image) => {
    const files = Array.from({ length: 60 }, (_, file): TestNode => {
      const data = noise(1 + ((file * 7919 + image * 104729) % 40_000), image * 1000 + file + 1)
      return { name: `f${file}`, mode: 0o100644, data: Buffer.from(data) }
    })
    return buildImage(files, { chunkSize: 4096, ...(batch === undefined ? {} : { batch, v2: true }) })
  })
}

/** The blob of an image in a cache; without a reader of its own every fetch fails. */
export async function openImageBlob(
  cache: ChunkCache,
  image: TestImage,
  reader: BlobReader = new FakeReader({ blobId: image.blobId, stored: image.blob }),
): Promise<CachedBlob> {
  const described = describeBlobs(new MemorySource(image.bootstrap))[0]!
  const { blobId, sizeBytes, chunkCount, layoutSource } = described
  const layout = layoutSource({ directory: cache.directory, reader, validate: true })
  return await cache.openBlob({ blobId, sizeBytes, chunkCount, layoutSource: layout, reader })
}

/** A call that was answered. */
export interface Ack {
  readonly logBytes: number
  readonly op: 'prepare' | 'commit' | 'remove'
  readonly key: string
  /** Of a commit: the new name. */
  readonly name?: string
  /** The bootstrap below the disk's root, of a commit that brought one. */
  readonly bootstrap?: string
}

/** The bootstrap that the snapshot of that name holds. */
export const bootstrapOf = (images: readonly TestImage[], name: string): Buffer =>
  images[Number(name.slice(1)) % images.length]!.bootstrap

/** Takes away what makes a cache file durable before its bits are set. */
function dropFlushes(): void {
  const real = fs.fdatasync
  const patched = (fd: number, callback: (err: Error | null) => void): void => {
    if (fs.readlinkSync(`/proc/self/fd/${fd}`).endsWith('.blob.data')) setImmediate(callback, null)
    else real(fd, callback)
  }
  fs.fdatasync = patched as typeof fs.fdatasync
  syncBuiltinESMExports()
}

async function fill(directory: string): Promise<void> {
  const { ChunkCache } = await import('../../src/cache/chunk-cache.js')
  const cache = ChunkCache.open({
    directory,
    syncBytes: 50_000,
    syncIdleMs: 5,
    readaheadBytes: 0,
    batchBytes: 8192,
  })
  let state = 1
  for (const image of powerCutImages()) {
    const blob = await openImageBlob(cache, image)
    // The kernel writes a page back whenever it likes: here often, so that bits are on the disk early.
    const map = fs.openSync(`${blob.path}.chunk_map`, 'r')
    const missing = Array.from({ length: blob.sizeBytes / 4096 }, (_, i) => i)
    const workers = Array.from({ length: 4 }, async () => {
      while (missing.length > 0) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0
        const [block = 0] = missing.splice(state % missing.length, 1)
        await blob.ensure(block * 4096, 4096, { kind: 'demand' })
        if (missing.length % 50 === 0) await new Promise(resolve => fs.fsync(map, resolve))
      }
    })
    await Promise.all(workers)
    await new Promise<void>(resolve => blob.onDurable(resolve))
    fs.closeSync(map)
  }
}

async function makeSnapshots(directory: string, ack: (what: Omit<Ack, 'logBytes'>) => void): Promise<void> {
  const { startSnapshotsServer } = await import('./snapshots-server.js')
  const { LABELS } = await import('../../src/snapshotter/labels.js')
  const images = powerCutImages()
  const { client } = await startSnapshotsServer(directory, { syncRemove: true })
  for (let i = 0; i < 25; i++) {
    const [key, name] = [`k${i}`, `n${i}`]
    const [mount] = await client.prepare(key, '')
    ack({ op: 'prepare', key })
    // What an unpacker does, which flushes nothing.
    const bootstrap = path.join(mount!.source, 'image', 'image.boot')
    fs.mkdirSync(path.dirname(bootstrap))
    fs.writeFileSync(bootstrap, bootstrapOf(images, name))
    await client.commit(name, key, { [LABELS.bootstrap]: 'true' })
    ack({ op: 'commit', key, name, bootstrap })
    const old = `n${i - 5}`
    if (i >= 5 && i % 2 === 1) {
      await client.remove(old)
      ack({ op: 'remove', key: old })
    }
  }
}

if (process.argv[1] === import.meta.filename) {
  const [directory = '', log = '', acks = '', flushed = ''] = process.argv.slice(2)
  if (flushed === 'unflushed') dropFlushes()
  const fd = fs.openSync(acks, 'a')
  const note = (what: Omit<Ack, 'logBytes'>): void => {
    const logBytes = fs.statSync(log).size
    fs.writeSync(fd, `${JSON.stringify({ logBytes, ...what })}\n`)
  }
  await Promise.all([
    fill(path.join(directory, 'cache')),
    flushed === 'unflushed' || makeSnapshots(path.join(directory, 'node'), note),
  ])
  process.stdout.write('done\n')
}
