import { createHash, randomBytes } from 'node:crypto'
import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { compress } from '../../../src/common/codec.js'
import { extractBootstrap, parseToc, readSection, readSections, readToc } from '../../../src/erofs/toc.js'
import { patched } from '../../helpers/patch.js'

/** A tar header in front of nothing: it follows its data. */
function trailer(name: string, size: number): Buffer {
  const header = Buffer.alloc(512)
  header.write(name, 0)
  header.write(`${size.toString(8).padStart(11, '0')}\0`, 124)
  header.write('00000000000\0', 136)
  header.write('0', 156)
  header.write('ustar  \0', 257)
  return sealed(header)
}

function sealed(header: Buffer): Buffer {
  header.fill(' ', 148, 156)
  const sum = header.reduce((all, byte) => all + byte, 0)
  header.write(`${sum.toString(8).padStart(7, '0')}\0`, 148)
  return header
}

function tocEntry(name: string, flags: number, content: Uint8Array, offset: number, size: number): Buffer {
  const entry = Buffer.alloc(128)
  entry.writeUInt32LE(flags, 0)
  entry.write(name, 8)
  createHash('sha256').update(content).digest().copy(entry, 24)
  entry.writeBigUInt64LE(BigInt(offset), 56)
  entry.writeBigUInt64LE(BigInt(size), 64)
  entry.writeBigUInt64LE(BigInt(content.length), 72)
  return entry.fill(0xff, 124)
}

const data = randomBytes(1001)
const meta = randomBytes(37)
const boot = Buffer.from('bootstrap '.repeat(500))
const packedBoot = compress('zstd', boot)
const bootAt = data.length + 512 + meta.length + 512
const body = Buffer.concat([
  data,
  trailer('image.blob', data.length),
  meta,
  trailer('blob.meta', meta.length),
  packedBoot,
  trailer('image.boot', packedBoot.length),
])
const toc = Buffer.concat([
  tocEntry('blob.meta.header', 1, meta, data.length + 512, meta.length),
  tocEntry('image.boot', 2, boot, bootAt, packedBoot.length),
])
const blob = Buffer.concat([body, toc, trailer('rafs.blob.toc', toc.length)])

t.test('sections are found from the end', async t => {
  t.same(readSections(new MemorySource(blob)), [
    { name: 'image.blob', offset: 0, size: 1001 },
    { name: 'blob.meta', offset: 1513, size: 37 },
    { name: 'image.boot', offset: bootAt, size: packedBoot.length },
    { name: 'rafs.blob.toc', offset: body.length, size: 256 },
  ])
  t.same(readSections(new MemorySource(data)), [])
  t.same(readSections(new MemorySource(Buffer.alloc(0))), [])
})

t.test('the table of contents', async t => {
  const entries = readToc(new MemorySource(blob))
  t.match(entries, [
    { name: 'blob.meta.header', compressor: 'none', uncompressedSize: 37 },
    { name: 'image.boot', compressor: 'zstd', uncompressedSize: boot.length },
  ])
  t.same(readSection(new MemorySource(blob), entries![0]!), meta)
  t.equal(readToc(new MemorySource(body)), undefined)
  t.equal(readToc(new MemorySource(Buffer.alloc(10))), undefined)
})

t.test('the bootstrap inside', async t => {
  t.equal(Buffer.compare(extractBootstrap(new MemorySource(blob))!, boot), 0)
  const legacy = Buffer.concat([
    data,
    trailer('image.blob', data.length),
    boot,
    trailer('image.boot', boot.length),
  ])
  t.equal(
    Buffer.compare(extractBootstrap(new MemorySource(legacy))!, boot),
    0,
    'raw, without a table of contents',
  )
  t.equal(extractBootstrap(new MemorySource(data)), undefined)
  const without = Buffer.concat([toc.subarray(0, 128), trailer('rafs.blob.toc', 128)])
  t.equal(extractBootstrap(new MemorySource(without)), undefined)
})

t.test('a size in base 256', async t => {
  const header = Buffer.from(trailer('image.blob', 0))
  header.fill(0, 124, 136)
  header[124] = 0x80
  header.writeUInt32BE(data.length, 132)
  t.same(readSections(new MemorySource(Buffer.concat([data, sealed(header)]))), [
    { name: 'image.blob', offset: 0, size: 1001 },
  ])
})

t.test('damaged framing', async t => {
  const code = 'BLOB_TOC_INVALID'
  const end = blob.length - 512
  const cases: [Buffer, RegExp][] = [
    [patched(blob, end + 5, 1, 0x41), /checksum/],
    [blob.subarray(100), /lead to byte|size/],
    [Buffer.concat([Buffer.alloc(5), trailer('image.blob', 900)]), /only 5 bytes stand before/],
    [Buffer.concat([Buffer.alloc(5), trailer('image.blob', 2)]), /lead to byte 3/],
  ]
  for (const [bytes, message] of cases)
    t.throws(() => readSections(new MemorySource(bytes)), { code, message }, String(message))
  const octal = Buffer.from(trailer('image.blob', 0))
  octal.write('89', 124)
  t.throws(() => readSections(new MemorySource(sealed(octal))), { code, message: /octal/ })
  const ragged = Buffer.concat([Buffer.alloc(100), trailer('rafs.blob.toc', 100)])
  t.throws(() => readToc(new MemorySource(ragged)), { code, message: /entries of 128 bytes/ })
})

t.test('damaged entries', async t => {
  const code = 'BLOB_TOC_INVALID'
  t.throws(() => parseToc(patched(toc, 0, 4, 3), 0), { code, context: { field: 'flags', offset: 0 } })
  t.throws(() => parseToc(patched(toc, 128 + 56, 8, 2n ** 60n), 0), { code, context: { offset: 184 } })
  const at = body.length + 128
  for (const [offset, value, message] of [
    [56, 2n ** 40n, /beyond the \d+ bytes/],
    [24, 0n, /does not have the digest/],
    [72, 2n ** 40n, /claims/],
  ] as const) {
    const damaged = new MemorySource(patched(blob, at + offset, 8, value))
    t.throws(() => extractBootstrap(damaged), { code, message })
  }
  const short = new MemorySource(patched(blob, at + 72, 8, 10))
  t.throws(() => extractBootstrap(short), { code: 'CHUNK_DECODE' })
})
