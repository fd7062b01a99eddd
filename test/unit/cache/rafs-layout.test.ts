import { randomBytes } from 'node:crypto'
import t from 'tap'
import { RafsLayout } from '../../../src/cache/rafs-layout.js'
import { MemorySource } from '../../../src/common/byte-source.js'
import { crc32c } from '../../../src/common/crc32c.js'
import { isFault } from '../../../src/common/fault.js'
import { parseStoredMeta, storedMetaRange } from '../../../src/erofs/blob-meta.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import type { ChunkChecks } from '../../../src/erofs/chunk-table.js'
import { patched } from '../../helpers/patch.js'
import type { TestImageOptions } from '../../helpers/rafs-blob.js'
import { buildImage } from '../../helpers/rafs-image.js'

const files = [randomBytes(9000), Buffer.from('text '.repeat(3000)), randomBytes(7), Buffer.alloc(4096)]
const tree = files.map((data, index) => ({ name: `f${index}`, mode: 0o100644, data }))
const key = { key: randomBytes(32), iv: randomBytes(16) }

function build(options: TestImageOptions, checks?: ChunkChecks | 'none', validate = true) {
  const image = buildImage(tree, options)
  const bootstrap = Bootstrap.open(new MemorySource(image.bootstrap))
  const blob = bootstrap.blobs[0]
  if (blob === undefined) throw new Error('no blob')
  const range = storedMetaRange(blob)
  const meta = parseStoredMeta(blob, image.blob.subarray(range.offset, range.offset + range.length))
  const used = checks === 'none' ? undefined : (checks ?? bootstrap.chunkDigests(0))
  const layout = new RafsLayout(blob, meta, used, { validate })
  const stored = (chunk: number): Buffer => {
    const { storedOffset, storedLength } = layout.extentOf(chunk)
    return image.blob.subarray(storedOffset, storedOffset + storedLength)
  }
  return { layout, stored, blob, image, bootstrap }
}

const forms: TestImageOptions[] = [
  { compressor: 'zstd' },
  { compressor: 'lz4_block', digester: 'sha256' },
  { compressor: 'none' },
  { compressor: 'zstd', v2: true, batch: 4 },
  { compressor: 'lz4_block', v2: true, key },
  { compressor: 'zstd', v2: true, key, batch: 3 },
]

for (const options of forms) {
  t.test(`all chunks of ${JSON.stringify({ ...options, key: options.key && 'yes' })}`, async t => {
    const { layout, stored } = build(options)
    const space = Buffer.alloc(layout.uncompressedSize)
    for (let chunk = 0; chunk < layout.chunkCount;) {
      const extent = layout.extentOf(chunk)
      const decoded = await layout.decode(extent, stored(chunk))
      t.equal(decoded.length, extent.chunkCount)
      for (const one of decoded) {
        t.ok(layout.verifiable(one.chunk))
        layout.verify(one)
        t.same(layout.chunkRange(one.chunk), { offset: one.offset, length: one.bytes.length })
        t.same(layout.extentOf(one.chunk), extent, 'members of a batch share their extent')
        space.set(one.bytes, one.offset)
      }
      chunk = extent.firstChunk + extent.chunkCount
    }
    let at = 0
    for (const data of files) {
      t.equal(Buffer.compare(space.subarray(at, at + data.length), data), 0)
      at += Math.ceil(data.length / 4096) * 4096
    }
    t.equal(at, layout.uncompressedSize)
  })
}

t.test('uncompressed chunks are not copied', async t => {
  const { layout, stored } = build({ compressor: 'none' })
  const bytes = stored(0)
  t.equal((await layout.decode(layout.extentOf(0), bytes))[0]?.bytes, bytes)
})

t.test('chunksIn', async t => {
  const { layout } = build({})
  // Chunks: 3 of the first file (the last has 808 bytes), 4 of the second, 1, 1.
  t.equal(layout.chunkCount, 9)
  t.same(layout.chunksIn(0, 1), { first: 0, end: 1 })
  t.same(layout.chunksIn(0, 4097), { first: 0, end: 2 })
  t.same(layout.chunksIn(8192, 808), { first: 2, end: 3 })
  t.same(layout.chunksIn(9000, 100), { first: 3, end: 3 }, 'padding only')
  t.same(layout.chunksIn(9000, 3289), { first: 3, end: 4 })
  t.same(layout.chunksIn(0, layout.uncompressedSize), { first: 0, end: 9 })
  const past = layout.chunksIn(layout.uncompressedSize, 4096)
  t.equal(past.first, past.end)
})

t.test('altered bytes are found, with both digests', async t => {
  const { layout, stored } = build({ compressor: 'none' })
  const bytes = Buffer.from(stored(0))
  bytes[5] = (bytes[5] ?? 0) ^ 1
  const [decoded] = await layout.decode(layout.extentOf(0), bytes)
  t.throws(() => layout.verify(decoded!), {
    code: 'CHUNK_DIGEST_MISMATCH',
    context: { chunk: 0, expected: /^[0-9a-f]{64}$/, found: /^[0-9a-f]{64}$/ },
  })
  const unchecked = build({ compressor: 'none' }, undefined, false).layout
  unchecked.verify(decoded!)
})

t.test('bytes that do not decode', async t => {
  for (const options of forms.slice(0, 2)) {
    const { layout, stored } = build(options)
    // Chunk 3 is text, so compressed.
    const bytes = Buffer.from(stored(3)).fill(0xff, 0, 8)
    await t.rejects(layout.decode(layout.extentOf(3), bytes), { code: 'CHUNK_DECODE', context: { chunk: 3 } })
    await t.rejects(layout.decode(layout.extentOf(3), bytes.subarray(1)), { code: 'CHUNK_DECODE' })
  }
})

t.test('a chunk without a digest cannot be verified', async t => {
  const none: ChunkChecks = { digest: () => undefined, crc32c: () => undefined }
  const { layout, stored } = build({}, none)
  const [decoded] = await layout.decode(layout.extentOf(0), stored(0))
  t.equal(layout.verifiable(0), false)
  t.throws(() => layout.verify(decoded!), { code: 'CHUNK_DIGEST_MISMATCH', message: /no digest/ })
  t.equal(build({}, none, false).layout.verifiable(0), true)
})

t.test('a CRC checks where the bootstrap has no digest', async t => {
  const data = files[0]!.subarray(0, 4096)
  const checks: ChunkChecks = { digest: () => undefined, crc32c: () => crc32c(data) }
  const { layout, stored } = build({}, checks)
  const [decoded] = await layout.decode(layout.extentOf(0), stored(0))
  t.ok(layout.verifiable(0))
  layout.verify(decoded!)
  t.throws(() => layout.verify({ ...decoded!, bytes: Buffer.from(data).fill(0, 0, 4) }), {
    code: 'CHUNK_DIGEST_MISMATCH',
    context: { expected: /^crc32c:/ },
  })
})

t.test('without a chunk table the CRC of the blob itself is used', async t => {
  const { blob, image } = build({ compressor: 'none', v2: true }, 'none')
  const range = storedMetaRange(blob)
  const info = image.blob.subarray(range.offset, range.offset + range.length)
  const withCrc = patched(patched(info, 7, 1, 0x10), 16, 4, crc32c(files[0]!.subarray(0, 4096)))
  const layout = new RafsLayout(blob, parseStoredMeta(blob, withCrc), undefined, { validate: true })
  t.equal(layout.verifiable(0), true)
  t.equal(layout.verifiable(1), false)
  layout.verify((await layout.decode(layout.extentOf(0), image.blob.subarray(0, 4096)))[0]!)
})

t.test('no error shows a key', async t => {
  const { layout, stored } = build({ compressor: 'zstd', v2: true, key })
  const err: unknown = await layout
    .decode(layout.extentOf(3), Buffer.from(stored(3)).fill(0))
    .catch((e: unknown) => e)
  t.ok(isFault(err, 'CHUNK_DECODE'))
  t.notOk(JSON.stringify(err).includes(key.key.toString('hex')))
})
