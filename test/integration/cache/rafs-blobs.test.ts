/** The chunk cache over blobs made by the reference tools: plain, batched, encrypted, sha256 and blake3. */
import { createHash } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync, truncateSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { BlobReader } from '../../../src/backend/reader.js'
import { BlobMetaSource } from '../../../src/cache/blob-meta-source.js'
import type { CachedBlob } from '../../../src/cache/cached-blob.js'
import { ChunkCache } from '../../../src/cache/chunk-cache.js'
import { FileSource } from '../../../src/common/byte-source.js'
import { fault } from '../../../src/common/fault.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { fixturesDirectory, rafsV6Images, readExpected } from '../../helpers/rafs-fixtures.js'
import { scratch } from '../../helpers/scratch.js'

const fixtures = fixturesDirectory()

function fileReader(blobId: string, file: string): BlobReader {
  return {
    blobId,
    size: () => Promise.reject(new Error('nobody asks')),
    read: async (offset, length) => {
      const bytes = Buffer.alloc(length)
      const fd = openSync(file, 'r')
      const n = readSync(fd, bytes, 0, length, offset)
      closeSync(fd)
      return bytes.subarray(0, n)
    },
  }
}

const unreachable = (blobId: string): BlobReader => ({
  blobId,
  size: () => Promise.reject(fault('REGISTRY_UNAVAILABLE', 'down')),
  read: () => Promise.reject(fault('REGISTRY_UNAVAILABLE', 'down')),
})

function openBlobs(cache: ChunkCache, bootstrap: Bootstrap, reader: (blobId: string) => BlobReader) {
  return Promise.all(
    bootstrap.blobs.map(blob => {
      const { blobId, chunkCount, uncompressedSize: sizeBytes, index } = blob
      const own = reader(blobId)
      const layoutSource = new BlobMetaSource({
        directory: cache.directory,
        blobId,
        blob,
        checks: bootstrap.chunkDigests(index),
        reader: own,
        validate: true,
      })
      return cache.openBlob({ blobId, sizeBytes, chunkCount, layoutSource, reader: own })
    }),
  )
}

/** sha256 of every regular file, put together from the cache files, by the path in hex. */
function hashFiles(bootstrap: Bootstrap, blobs: readonly CachedBlob[]): Map<string, string> {
  const data = blobs.map(blob => readFileSync(blob.path))
  const hashes = new Map<string, string>()
  for (const entry of bootstrap.walk()) {
    if (entry.inode.type !== 'regular') continue
    const hash = createHash('sha256')
    for (const { blobIndex, uncompressedOffset, length } of bootstrap.fileChunks(entry.inode)) {
      hash.update(data[blobIndex]!.subarray(uncompressedOffset, uncompressedOffset + length))
    }
    hashes.set(Buffer.from(entry.path()).toString('hex'), hash.digest('hex'))
  }
  return hashes
}

t.test('every file comes out right', { skip: fixtures ? false : 'no fixtures' }, async t => {
  if (!fixtures) return
  const expected = new Map<string, string>()
  for (const { path: name = '', path_hex, sha256 } of readExpected(fixtures)) {
    if (sha256 !== undefined) expected.set(path_hex ?? Buffer.from(name).toString('hex'), sha256)
  }
  for (const image of rafsV6Images(fixtures)) {
    const directory = scratch(t)
    const source = new FileSource(image.bootstrap)
    t.teardown(() => source.close())
    const bootstrap = Bootstrap.open(source)
    const stored = (blobId: string) => fileReader(blobId, path.join(image.blobs, blobId))

    const first = ChunkCache.open({ directory })
    const blobs = await openBlobs(first, bootstrap, stored)
    await Promise.all(blobs.map(blob => blob.ensure(0, blob.sizeBytes, { kind: 'prefetch' })))
    const hashes = hashFiles(bootstrap, blobs)
    const wrong = [...expected].filter(([name, sha256]) => hashes.get(name) !== sha256)
    t.same([expected.size > 1000, wrong], [true, []], `${image.name}: ${hashes.size} files`)
    t.ok(blobs.every(blob => blob.complete))
    await first.close()

    const second = ChunkCache.open({ directory })
    const again = await openBlobs(second, bootstrap, unreachable)
    t.ok(
      again.every(blob => blob.complete && blob.durable),
      `${image.name}: complete and durable without the network`,
    )
    await Promise.all(again.map(blob => blob.ensure(0, 4096, { kind: 'demand' })))
    await second.close()

    const meta = path.join(directory, `${bootstrap.blobs[0]!.blobId}.blob.meta`)
    const good = readFileSync(meta)
    truncateSync(meta, good.length - 1)
    const third = ChunkCache.open({ directory })
    const healed = await openBlobs(third, bootstrap, stored)
    await healed[0]!.ensure(0, 4096, { kind: 'demand' })
    t.ok(readFileSync(meta).equals(good), `${image.name}: damaged metadata is fetched again`)
    await third.close()
  }
})
