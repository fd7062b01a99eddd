import { randomBytes } from 'node:crypto'
import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import type { BlobEntry } from '../../../src/erofs/blob-table.js'
import { parseMetaFile, parseStoredMeta, storedMetaRange } from '../../../src/erofs/blob-meta.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { patched } from '../../helpers/patch.js'
import type { TestImageOptions } from '../../helpers/rafs-blob.js'
import { buildImage, type TestImage } from '../../helpers/rafs-image.js'

const tree = [{ name: 'file', mode: 0o100644, data: randomBytes(30000) }]

function build(options: TestImageOptions = {}): { image: TestImage; blob: BlobEntry; stored: Buffer } {
  const image = buildImage(tree, options)
  const blob = Bootstrap.open(new MemorySource(image.bootstrap)).blobs[0]
  if (blob === undefined) throw new Error('no blob')
  const range = storedMetaRange(blob)
  return { image, blob, stored: image.blob.subarray(range.offset, range.offset + range.length) }
}

t.test('version 1, version 2, encrypted: the same chunks', async t => {
  const key = { key: randomBytes(32), iv: randomBytes(16) }
  for (const options of [{}, { v2: true }, { v2: true, key }, { compressor: 'none' as const }]) {
    const { blob, stored } = build(options)
    const { chunks, batches } = parseStoredMeta(blob, stored)
    t.equal(chunks.count, 8)
    t.same(batches, [])
    t.same(
      Array.from({ length: 8 }, (_, i) => [chunks.offset(i), chunks.size(i), chunks.compressedSize(i)]),
      Array.from({ length: 8 }, (_, i) => [i * 4096, i === 7 ? 1328 : 4096, i === 7 ? 1328 : 4096]),
    )
    t.equal(chunks.isEncrypted(0), 'key' in options)
  }
})

t.test('batches know their members', async t => {
  const { blob, stored } = build({ v2: true, batch: 3 })
  const { chunks, batches } = parseStoredMeta(blob, stored)
  t.same(
    batches.map(batch => [batch.firstChunk, batch.chunkCount, batch.uncompressedSize]),
    [
      [0, 3, 12288],
      [3, 3, 12288],
      [6, 2, 5424],
    ],
  )
  t.same(
    Array.from({ length: 8 }, (_, i) => [chunks.batchIndex(i), chunks.offsetInBatch(i)]),
    [0, 1, 2, 3, 4, 5, 6, 7].map(i => [Math.floor(i / 3), (i % 3) * 4096]),
  )
})

t.test('every header field is checked', async t => {
  const { blob, stored } = build({ compressor: 'none' })
  const header = blob.ciCompressedSize
  const cases: [string, number, 4 | 8, number | bigint][] = [
    ['magic', 0, 4, 1],
    ['magic2', 4092, 4, 1],
    ['ci_entries', 12, 4, 9],
    ['ci_offset', 16, 8, 1],
    ['ci_offset', 16, 8, 2n ** 63n],
    ['ci_compressed_size', 24, 8, 1],
    ['ci_uncompressed_size', 32, 8, 1],
  ]
  for (const [field, offset, width, value] of cases) {
    const damaged = patched(stored, header + offset, width, value)
    t.throws(() => parseStoredMeta(blob, damaged), {
      code: 'BLOB_META_INVALID',
      context: { field, offset: header + offset },
    })
  }
  t.throws(() => parseStoredMeta(blob, stored.subarray(1)), {
    code: 'BLOB_META_INVALID',
    message: /bytes long/,
  })
})

t.test('chunk infos that cannot be', async t => {
  const { blob, stored } = build({ compressor: 'none', v2: true })
  const cases: [string, number, 1 | 4, number][] = [
    ['uncompressed_offset', 24, 4, 0],
    ['uncompressed_offset', 7 * 24, 4, 0xffffffff],
    ['uncompressed_size', 4 + 2, 1, 1],
    ['flags', 7, 1, 0x80],
    ['flags', 7, 1, 2],
    ['flags', 7, 1, 4],
    ['flags', 7, 1, 8],
    ['crc32', 7, 1, 0x10],
    ['compressed_size', 8 + 5, 4, 0],
    ['compressed_offset', 8, 4, 0x7fffffff],
  ]
  for (const [field, offset, width, value] of cases) {
    t.throws(
      () => parseStoredMeta(blob, patched(stored, offset, width, value)),
      { code: 'BLOB_META_INVALID', context: { field } },
      `${field} ${value}`,
    )
  }
  const withCrc = patched(patched(stored, 7, 1, 0x10), 16, 4, 0xcafe)
  t.equal(parseStoredMeta(blob, withCrc).chunks.crc32c(0), 0xcafe)
})

t.test('batches that cannot be', async t => {
  const { blob, stored } = build({ compressor: 'none', v2: true, batch: 3 })
  const contexts = 8 * 24
  const header = blob.ciCompressedSize
  const cases: [number, 1 | 4 | 8, number | bigint, RegExp][] = [
    [20, 4, 9, /beyond the 3 batches/],
    [24 + 20, 4, 1, /does not follow/],
    [24 + 8, 4, 5, /does not follow/],
    [24 + 16, 4, 12000, /ends beyond the 12288 bytes/],
    [contexts, 4, 0, /beyond the chunk data/],
    [contexts, 4, 0x800000, /beyond the chunk data/],
    [contexts + 4, 4, 0x2000000, /at most 16 MiB/],
    [header + 40, 8, 10, /chunk infos end/],
    [header + 48, 8, 2n ** 40n, /do not hold so many/],
    [header + 56, 4, 1000, /do not hold so many/],
  ]
  for (const [offset, width, value, message] of cases) {
    const damaged = patched(stored, offset, width, value)
    t.throws(() => parseStoredMeta(blob, damaged), { code: 'BLOB_META_INVALID', message })
  }
})

t.test('stored infos that do not decode', async t => {
  const compressible = buildImage([{ name: 'zeros', mode: 0o100644, data: Buffer.alloc(200000) }])
  const blob = Bootstrap.open(new MemorySource(compressible.bootstrap)).blobs[0]!
  const range = storedMetaRange(blob)
  const stored = compressible.blob.subarray(range.offset, range.offset + range.length)
  t.ok(blob.ciCompressedSize < blob.ciUncompressedSize)
  t.equal(parseStoredMeta(blob, stored).chunks.count, 49)
  t.throws(() => parseStoredMeta(blob, patched(stored, 0, 4, 0)), {
    code: 'BLOB_META_INVALID',
    message: /does not decode/,
  })
})

t.test('a metadata file', async t => {
  const { blob, stored } = build({ compressor: 'none', v2: true })
  const info = Buffer.alloc(4096)
  stored.copy(info, 0, 0, blob.ciUncompressedSize)
  const file = Buffer.concat([info, stored.subarray(blob.ciCompressedSize)])
  t.equal(parseMetaFile(blob, file).chunks.count, 8)
  t.throws(() => parseMetaFile(blob, file.subarray(4096)), {
    code: 'BLOB_META_INVALID',
    message: /4096 bytes long/,
  })
})

t.test('sizes beyond 1 MiB use the split bits of version 1', async t => {
  const data = Buffer.concat([randomBytes(3 << 20), Buffer.alloc(5)])
  const image = buildImage([{ name: 'f', mode: 0o100644, data }], {
    chunkSize: 1 << 22,
    compressor: 'lz4_block',
  })
  const blob = Bootstrap.open(new MemorySource(image.bootstrap)).blobs[0]!
  const range = storedMetaRange(blob)
  const { chunks } = parseStoredMeta(blob, image.blob.subarray(range.offset))
  t.equal(chunks.size(0), data.length)
  t.equal(chunks.compressedSize(0), range.offset)
})
