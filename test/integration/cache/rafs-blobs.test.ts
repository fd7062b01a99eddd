/** The chunk cache over blobs made by the reference tools: plain, batched, encrypted, sha256 and blake3. */
import { createHash } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync, truncateSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { BlobReader } from '../../../src/backend/reader.js'
import type { CachedBlob } from '../../../src/cache/cached-blob.js'
import { ChunkCache } from '../../../src/cache/chunk-cache.js'
import { describeBlobs } from '../../../src/cache/image-blobs.js'
import { FileSource } from '../../../src/common/byte-source.js'
import { fault } from '../../../src/common/fault.js'
import { type Logger, silentLogger } from '../../../src/common/log.js'
import { openInodeReader } from '../../../src/erofs/open-inode-reader.js'
import { fixturesDirectory, rafsImages, readExpected } from '../../helpers/rafs-fixtures.js'
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

function openBlobs(
  cache: ChunkCache,
  source: FileSource,
  reader: (blobId: string) => BlobReader,
  logger: Logger = silentLogger,
) {
  return Promise.all(
    describeBlobs(source).map(({ blobId, chunkCount, sizeBytes, layoutSource }) => {
      const own = reader(blobId)
      const layout = layoutSource({ directory: cache.directory, reader: own, validate: true, logger })
      return cache.openBlob({ blobId, sizeBytes, chunkCount, layoutSource: layout, reader: own })
    }),
  )
}

/** sha256 of every regular file, put together from the cache files, by the path in hex. */
function hashFiles(source: FileSource, blobs: readonly CachedBlob[]): Map<string, string> {
  const data = blobs.map(blob => readFileSync(blob.path))
  const reader = openInodeReader(source)
  const hashes = new Map<string, string>()
  const read = (directory: number, prefix: string): void => {
    reader.readDirectory(directory, 0, (bytes, start, end, ino, type) => {
      const path = prefix + Buffer.from(bytes.subarray(start, end)).toString('hex')
      if (type === 'directory') read(ino, `${path}2f`)
      if (type !== 'regular') return true
      const hash = createHash('sha256')
      for (const { blobIndex = -1, offset, length } of reader.extents(ino, 0, Infinity))
        hash.update(data[blobIndex]!.subarray(offset, offset + length))
      hashes.set(path, hash.digest('hex'))
      return true
    })
  }
  read(reader.rootIno, '')
  return hashes
}

t.test('every file comes out right', { skip: fixtures ? false : 'no fixtures' }, async t => {
  if (!fixtures) return
  const expected = new Map<string, string>()
  for (const { path: name = '', path_hex, sha256 } of readExpected(fixtures)) {
    if (sha256 !== undefined) expected.set(path_hex ?? Buffer.from(name).toString('hex'), sha256)
  }
  for (const image of [...rafsImages(fixtures, 'v6'), ...rafsImages(fixtures, 'v5')]) {
    const directory = scratch(t)
    const source = new FileSource(image.bootstrap)
    t.teardown(() => source.close())
    const stored = (blobId: string) => fileReader(blobId, path.join(image.blobs, blobId))

    const first = ChunkCache.open({ directory })
    const blobs = await openBlobs(first, source, stored)
    await Promise.all(blobs.map(blob => blob.ensure(0, blob.sizeBytes, { kind: 'prefetch' })))
    const hashes = hashFiles(source, blobs)
    const wrong = [...expected].filter(([name, sha256]) => hashes.get(name) !== sha256)
    t.same([expected.size > 1000, wrong], [true, []], `${image.name}: ${hashes.size} files`)
    t.ok(blobs.every(blob => blob.complete))
    await first.close()

    const second = ChunkCache.open({ directory })
    const again = await openBlobs(second, source, unreachable)
    // Only the bootstrap of a v5 image tells which chunks its files use, and it is read at the first need.
    if (image.name.startsWith('v5'))
      await Promise.all(again.map(blob => blob.ensure(0, blob.sizeBytes, { kind: 'prefetch' })))
    t.ok(
      again.every(blob => blob.complete && blob.durable),
      `${image.name}: complete and durable without the network`,
    )
    await Promise.all(again.map(blob => blob.ensure(0, 4096, { kind: 'demand' })))
    await second.close()
    if (image.name.startsWith('v5')) continue

    const meta = path.join(directory, `${blobs[0]!.blobId}.blob.meta`)
    const good = readFileSync(meta)
    truncateSync(meta, good.length - 1)
    const third = ChunkCache.open({ directory })
    const logger = silentLogger.child({})
    const warnings = t.capture(logger, 'warn')
    const healed = await openBlobs(third, source, stored, logger)
    await healed[0]!.ensure(0, 4096, { kind: 'demand' })
    t.ok(readFileSync(meta).equals(good), `${image.name}: damaged metadata is fetched again`)
    t.equal(warnings().length, 1, 'and told once')
    await third.close()
  }
})
