/** A process that fills a chunk cache in scattered order until it is killed; writes a line for each hundred chunks. */
import { ChunkCache } from '../../src/cache/chunk-cache.js'
import { FakeBlob, FakeReader } from './fake-blob.js'

const [directory = '', seed = '1'] = process.argv.slice(2)

/** Chunks of many sizes, some in batches. */
export function fillerBlob(): FakeBlob {
  const chunks = Array.from({ length: 1000 }, (_, i) => 1 + ((i * 7919) % 9000))
  return new FakeBlob({ chunks, batch: 3, coded: true, seed: 77 })
}

if (directory) {
  const blob = fillerBlob()
  const cache = ChunkCache.open({
    directory,
    syncBytes: 2_000_000,
    readaheadBytes: 0,
    memoryBytes: 2_000_000,
  })
  const cached = await cache.openBlob({
    blobId: blob.blobId,
    sizeBytes: blob.uncompressedSize,
    layoutSource: { load: async () => blob, loadLocal: async () => blob },
    reader: new FakeReader(blob),
  })
  let state = Number(seed)
  const missing = Array.from({ length: blob.chunkCount }, (_, i) => i)
  const workers = Array.from({ length: 8 }, async () => {
    while (missing.length > 0) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      const [chunk = 0] = missing.splice(state % missing.length, 1)
      await cached.ensure(blob.chunkRange(chunk).offset, 1, { kind: 'demand' })
      if (missing.length % 100 === 0) process.stdout.write(`${missing.length} to go\n`)
    }
  })
  await Promise.all(workers)
  // Stays, as a daemon would, for the one who kills it.
  setInterval(() => {}, 1000)
}
