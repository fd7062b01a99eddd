import { createCipheriv, randomBytes } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { UnitCipher, compress, decompress } from '../../../src/common/codec.js'
import { crc32c } from '../../../src/common/crc32c.js'

const text = Buffer.from('a chunk of text that repeats, '.repeat(1000))

t.test('each compressor gives its input back', async t => {
  for (const compressor of ['none', 'lz4_block', 'zstd'] as const) {
    for (const bytes of [text, randomBytes(5000), Buffer.alloc(1 << 20), Buffer.from('x')]) {
      const stored = compress(compressor, bytes)
      t.equal(Buffer.compare(decompress(compressor, stored, bytes.length), bytes), 0, compressor)
    }
  }
  t.ok(compress('zstd', text).length < text.length / 10)
  t.ok(compress('lz4_block', text).length < text.length / 10)
})

t.test('none copies nothing', async t => {
  t.equal(decompress('none', text, text.length), text)
})

t.test('views into larger buffers are taken as they are', async t => {
  for (const compressor of ['lz4_block', 'zstd'] as const) {
    const stored = compress(compressor, new Uint8Array(text))
    const inside = new Uint8Array(stored.length + 20).fill(7)
    inside.set(stored, 9)
    const view = inside.subarray(9, 9 + stored.length)
    t.equal(Buffer.compare(decompress(compressor, view, text.length), text), 0)
  }
})

t.test('known stored forms', async t => {
  // A raw lz4 block: token 0x50, five literals.
  t.same(decompress('lz4_block', Buffer.from([0x50, ...Buffer.from('hello')]), 5), Buffer.from('hello'))
  // A zstd frame of one raw block with content size, no checksum.
  const frame = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, 5, 0x29, 0, 0, ...Buffer.from('hello')])
  t.same(decompress('zstd', frame, 5), Buffer.from('hello'))
})

t.test('a wrong size or damaged bytes are a CHUNK_DECODE fault', async t => {
  for (const compressor of ['none', 'lz4_block', 'zstd'] as const) {
    const stored = compress(compressor, text)
    const decode = { code: 'CHUNK_DECODE' }
    t.throws(() => decompress(compressor, stored, text.length - 1), decode)
    t.throws(() => decompress(compressor, stored, text.length + 1), decode)
    t.throws(() => decompress(compressor, stored.subarray(0, stored.length >> 1), text.length), decode)
    t.throws(() => decompress(compressor, new Uint8Array(0), 10), decode)
    if (compressor !== 'none') t.throws(() => decompress(compressor, randomBytes(300), 5000), decode)
  }
})

t.test('a gzip member is read', async t => {
  const member = gzipSync(text)
  t.same(decompress('gzip', member, text.length), text)
  for (const stored of [text, member.subarray(0, member.length >> 1)])
    t.throws(() => decompress('gzip', stored, text.length), { code: 'CHUNK_DECODE' })
  t.throws(() => decompress('gzip', member, text.length - 1), { code: 'CHUNK_DECODE' })
})

t.test(
  'a declared size beyond what the format can expand to is refused before memory is set aside',
  async t => {
    const before = process.memoryUsage().arrayBuffers
    for (const compressor of ['lz4_block', 'zstd', 'gzip'] as const)
      t.throws(() => decompress(compressor, Buffer.alloc(20), 2 ** 33), { code: 'CHUNK_DECODE' })
    t.ok(process.memoryUsage().arrayBuffers - before < 1 << 20)
  },
)

t.test('encrypted units keep their length, short ones grow to 18 bytes', async t => {
  const key = randomBytes(32)
  const iv = randomBytes(16)
  const cipher = new UnitCipher(key, iv)
  for (let length = 1; length < 70; length++) {
    const unit = randomBytes(length)
    const stored = cipher.encrypt(unit)
    t.equal(stored.length, length < 16 ? 18 : length)
    t.same(Buffer.from(cipher.decrypt(stored)), unit, `${length} bytes`)
  }
  const whole = randomBytes(4096)
  const expected = createCipheriv('aes-128-xts', key, iv).update(whole)
  t.same(cipher.encrypt(whole), expected, 'one data unit with the IV as its tweak')
})

t.test('a unit of 18 bytes that only looks padded stays whole', async t => {
  const cipher = new UnitCipher(randomBytes(32), randomBytes(16))
  for (const fifteenth of [0, 16, 3]) {
    const unit = Buffer.concat([Buffer.alloc(15, 1), Buffer.from([fifteenth, 0x78, 0x90])])
    t.same(Buffer.from(cipher.decrypt(cipher.encrypt(unit))), unit)
  }
})

t.test('bad keys and units are refused; the key does not show', async t => {
  const half = randomBytes(16)
  t.throws(() => new UnitCipher(Buffer.concat([half, half]), half), { code: 'RAFS_FIELD' })
  t.throws(() => new UnitCipher(half, half), { code: 'RAFS_FIELD' })
  const cipher = new UnitCipher(randomBytes(32), half)
  t.throws(() => cipher.decrypt(randomBytes(15)), { code: 'CHUNK_DECODE' })
  t.equal(JSON.stringify(cipher), '{}')
})

t.test('CRC-32C of known strings', async t => {
  t.equal(crc32c(Buffer.from('123456789')), 0xe3069283)
  t.equal(crc32c(new Uint8Array(32)), 0x8a9136aa)
  t.equal(crc32c(new Uint8Array(0)), 0)
})
