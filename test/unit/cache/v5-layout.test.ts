/** RAFS v5 blobs in the chunk cache, by images that each know some of their chunks. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { CachedBlob } from '../../../src/cache/cached-blob.js'
import { ChunkCache } from '../../../src/cache/chunk-cache.js'
import { type DescribedBlob, describeBlobs } from '../../../src/cache/image-blobs.js'
import { MemorySource } from '../../../src/common/byte-source.js'
import { compress } from '../../../src/common/codec.js'
import { digestOf } from '../../../src/common/digest.js'
import { encodeImage } from '../../../src/erofs/encode-image.js'
import { CHUNK_OFF } from '../../../src/erofs/format.js'
import type { ImageBlob, ImageChunk, RegularInode } from '../../../src/erofs/image-tree.js'
import { openInodeReader } from '../../../src/erofs/open-inode-reader.js'
import { directory, newBlob, regular } from '../../helpers/made-tree.js'
import { MemoryBlobs } from '../../helpers/memory-blobs.js'
import { scratch } from '../../helpers/scratch.js'

const CHUNK_SIZE = 0x4000
const SIZES = [1, 100, 4095, 4096, 4097, 8192, 16383, 16384, 5000, 16384, 3, 12288]
const blob = newBlob('b', { chunkSize: CHUNK_SIZE, compressor: 'zstd', features: 0x40000000 })
const contents = SIZES.map((size, i) =>
  i % 2 === 0 ? randomBytes(size) : Buffer.alloc(size, `text of ${i} `),
)
const stored: Uint8Array[] = []
const chunks = contents.map(bytes => addChunk(blob, bytes))
const blobs = new MemoryBlobs(new Map([[blob.id, Buffer.concat(stored)]]))

/** Packed, as v5 has them. */
function addChunk(blob: ImageBlob, bytes: Uint8Array): ImageChunk {
  const packed = compress('zstd', bytes)
  const kept = packed.length < bytes.length ? packed : bytes
  stored.push(kept)
  const chunk = {
    blob,
    index: blob.chunkCount++,
    digest: Buffer.from(digestOf('sha256', bytes)).toString('hex'),
    uncompressedOffset: blob.uncompressedSize,
    uncompressedSize: bytes.length,
    compressedOffset: blob.compressedSize,
    compressedSize: kept.length,
  }
  blob.uncompressedSize += bytes.length
  blob.compressedSize += kept.length
  return chunk
}

/** An image with a file of each of these chunks, by their index, and one file of two whole chunks. */
function image(indexes: readonly number[]): Buffer {
  const files = indexes.map(i => [`chunk-${i}`, regular([chunks[i]!])] as [string, RegularInode])
  if (indexes.includes(7) && indexes.includes(9)) files.push(['two', regular([chunks[7]!, chunks[9]!])])
  return Buffer.from(
    encodeImage({
      version: 5,
      chunkSize: CHUNK_SIZE,
      compressor: 'zstd',
      digester: 'sha256',
      explicitOwners: true,
      prefetch: [],
      root: directory(Object.fromEntries(files)),
    }).bytes,
  )
}

const only = (bytes: Uint8Array): DescribedBlob => describeBlobs(new MemorySource(bytes))[0]!

async function openImage(cache: ChunkCache, bytes: Uint8Array): Promise<CachedBlob> {
  const { blobId, sizeBytes, chunkCount, layoutSource } = only(bytes)
  const reader = blobs.open(blobId)
  const source = layoutSource({ directory: cache.directory, reader, validate: true })
  return cache.openBlob({ blobId, sizeBytes, chunkCount, layoutSource: source, reader })
}

/** Asks for every file of the image, and compares what is in the cache file then. */
async function checkFiles(t: Test, blob: CachedBlob, bytes: Uint8Array, indexes: readonly number[]) {
  const reader = openInodeReader(new MemorySource(bytes))
  for (const index of indexes) {
    const ino = reader.lookup(reader.rootIno, Buffer.from(`chunk-${index}`)) ?? 0
    const extents = reader.extents(ino, 0, CHUNK_SIZE)
    t.equal(extents.length, 1)
    const { offset, length } = extents[0]!
    await blob.ensure(offset, length, { kind: 'demand' })
    if (blob.complete) t.ok(blob.isReady(offset, length), `chunk ${index} is ready`)
    const found = readFileSync(blob.path).subarray(offset, offset + length)
    t.ok(found.equals(contents[index]!), `chunk ${index} is right`)
  }
}

const all = chunks.map((_, i) => i)
const even = all.filter(i => i % 2 === 0)
const first = [0, 1, 2]
const last = [9, 10, 11]

t.test('two chunks never share a block', async t => {
  const layout = await only(image(all))
    .layoutSource({} as never)
    .load()
  let end = 0
  for (const chunk of all) {
    const { offset, length } = layout.chunkRange(chunk)
    t.equal(offset % 4096, 0)
    t.ok(offset >= end)
    t.equal(length, SIZES[chunk])
    end = offset + Math.ceil(length / 4096) * 4096
    t.same(layout.chunksIn(offset, length), { first: chunk, end: chunk + 1 })
    t.same(layout.chunksIn(offset + length - 1, 1), { first: chunk, end: chunk + 1 })
    const { storedOffset, storedLength } = layout.extentOf(chunk)
    t.same([storedOffset, storedLength], [chunks[chunk]!.compressedOffset, chunks[chunk]!.compressedSize])
  }
  t.ok(end <= layout.uncompressedSize)
  t.same(layout.chunksIn(0, layout.uncompressedSize), { first: 0, end: all.length })
})

t.test('chunks that an image does not know keep their order', async t => {
  for (const indexes of [even, first, last, [5]]) {
    const layout = await only(image(indexes))
      .layoutSource({} as never)
      .load()
    let end = 0
    for (const chunk of all) {
      const { offset, length } = layout.chunkRange(chunk)
      const known = indexes.includes(chunk)
      t.equal(layout.verifiable(chunk), known)
      t.equal(length, known ? SIZES[chunk] : 0)
      t.ok(offset >= end, `chunk ${chunk} begins after ${end}`)
      end = offset + length
    }
  }
})

t.test('every pair of images that share a blob', async t => {
  for (const [one, other] of [
    [all, even],
    [even, all],
    [first, last],
    [last, first],
    [even, [1, 3, 5, 7, 9, 11]],
  ] as const) {
    const name = scratch(t)
    const cache = ChunkCache.open({ directory: name })
    const [a, b] = [image(one), image(other)]
    const blob = await openImage(cache, a)
    await checkFiles(t, blob, a, one)
    t.ok(blob.complete, 'all that the first image has')
    const same = await openImage(cache, b)
    t.equal(same, blob)
    t.equal(blob.complete, one.length === all.length, 'what the second image has is not known yet')
    await checkFiles(t, blob, b, other)
    await checkFiles(t, blob, a, one)
    t.ok(blob.complete)
    await cache.close()

    const again = ChunkCache.open({ directory: name })
    const reads = blobs.reads.length
    const reopened = await openImage(again, b)
    await checkFiles(t, reopened, b, other)
    t.ok(reopened.complete)
    await openImage(again, a)
    await checkFiles(t, reopened, a, one)
    t.equal(blobs.reads.length, reads, 'nothing is fetched again')
    await again.close()
  }
})

t.test('one of two images goes', async t => {
  const cache = ChunkCache.open({ directory: scratch(t) })
  const [a, b] = [image(even), image(all)]
  const readers = []
  for (const bytes of [a, b]) {
    const { blobId, sizeBytes, chunkCount, layoutSource } = only(bytes)
    const reader = blobs.open(blobId)
    const source = layoutSource({ directory: cache.directory, reader, validate: true })
    readers.push({
      reader,
      blob: await cache.openBlob({ blobId, sizeBytes, chunkCount, layoutSource: source, reader }),
    })
  }
  const { blob } = readers[0]!
  await checkFiles(t, blob, b, [1])
  await cache.closeBlob(blob, readers[0]!.reader)
  await checkFiles(t, blob, b, all)
  t.ok(blob.complete)
  await cache.close()
})

t.test('wrong bytes are not kept', async t => {
  const bytes = image(all)
  const at = bytes.indexOf(Buffer.from(chunks[3]!.digest, 'hex'))
  bytes[at] = bytes[at]! ^ 1
  const cache = ChunkCache.open({ directory: scratch(t) })
  const blob = await openImage(cache, bytes)
  const layout = await only(bytes)
    .layoutSource({} as never)
    .load()
  const { offset, length } = layout.chunkRange(3)
  await t.rejects(blob.ensure(offset, length, { kind: 'demand' }), { code: 'CHUNK_DIGEST_MISMATCH' })
  t.notOk(blob.isReady(offset, length))
  await cache.close()
})

t.test('records that contradict each other', async t => {
  const bytes = image(all)
  const record = bytes.indexOf(Buffer.from(chunks[7]!.digest, 'hex'))
  bytes[record + CHUNK_OFF.digest] = bytes[record + CHUNK_OFF.digest]! ^ 1
  const load = (bytes: Uint8Array) =>
    only(bytes)
      .layoutSource({} as never)
      .load()
  await t.rejects(load(bytes), { code: 'BLOB_META_INVALID', message: /chunk 7 .* two files/ })
  const early = image(all)
  const third = early.indexOf(Buffer.from(chunks[3]!.digest, 'hex'))
  early.writeUInt32LE(chunks[3]!.uncompressedOffset - 1, third + CHUNK_OFF.uncompressedOffset)
  await t.rejects(load(early), { code: 'BLOB_META_INVALID', message: /chunk 3 .* begins before/ })
  const cache = ChunkCache.open({ directory: scratch(t) })
  const other = image(even)
  const second = other.indexOf(Buffer.from(chunks[2]!.digest, 'hex'))
  other[second] = other[second]! ^ 1
  await openImage(cache, image(all))
  const blob = await openImage(cache, other)
  await t.rejects(blob.ensure(0, 1, { kind: 'demand' }), { code: 'BLOB_META_INVALID' })
  await cache.close()
})

t.test('an image without an extended blob table is refused by name', async t => {
  const bytes = image(first)
  bytes.writeUInt32LE(0, 68)
  t.throws(() => describeBlobs(new MemorySource(bytes)), { code: 'RAFS_UNSUPPORTED', message: /2020/ })
})
