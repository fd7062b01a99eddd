import t from 'tap'
import { Reply } from '../../../src/fuse/reply.js'

const attributes = {
  type: 'charDevice',
  mode: 0o20640,
  nlink: 3,
  uid: 1,
  gid: 4294967294,
  sizeBytes: 5 * 2 ** 32 + 513,
  major: 0x103,
  minor: 0x11170,
  mtimeSec: -2,
  mtimeNsec: 999_999_999,
} as const
const entry = { node: 3 * 2 ** 40 + 7, generation: 2, attributes }

t.test('the header', async t => {
  const reply = new Reply(Buffer.alloc(8192))
  t.equal(reply.finish(5, 0x80000000, 116, 0), 16)
  t.equal(reply.bytes.readUInt32LE(0), 16)
  t.equal(reply.bytes.readInt32LE(4), -116)
  t.equal(reply.bytes.readBigUInt64LE(8), 0x8000000000000005n, 'of a request that was sent again')
})

t.test('an entry with its attributes', async t => {
  const reply = new Reply(Buffer.alloc(8192))
  reply.bytes.fill(0xff)
  t.equal(reply.entry(entry), 128)
  const u64 = (at: number) => reply.bytes.readBigUInt64LE(16 + at)
  const u32 = (at: number) => reply.bytes.readUInt32LE(16 + at)
  t.same([u64(0), u64(8), u64(16), u64(24), u64(32)], [3n * 2n ** 40n + 7n, 2n, 2n ** 32n, 2n ** 32n, 0n])
  const size = 5n * 2n ** 32n + 513n
  t.same([u64(40), u64(48), u64(56)], [3n * 2n ** 40n + 7n, size, (size + 511n) / 512n])
  for (const at of [64, 72, 80]) t.equal(reply.bytes.readBigInt64LE(16 + at), -2n)
  for (const at of [88, 92, 96]) t.equal(u32(at), 999_999_999)
  t.same([u32(100), u32(104), u32(108), u32(112)], [0o20640, 3, 1, 4294967294])
  t.equal(u32(116), 0x11110370, 'rdev as the kernel encodes it')
  t.same([u32(120), u32(124)], [4096, 0])
})

t.test('a name that is absent', async t => {
  const reply = new Reply(Buffer.alloc(8192))
  reply.bytes.fill(0xff)
  t.equal(reply.entry(undefined), 128)
  t.equal(reply.bytes.readBigUInt64LE(16), 0n)
  t.equal(reply.bytes.readBigUInt64LE(32), 2n ** 32n, 'is so for long')
})

t.test('directory entries, padded with zeros', async t => {
  const reply = new Reply(Buffer.alloc(8192))
  for (const length of [1, 8, 9, 255]) {
    const name = Buffer.alloc(length, 'n')
    reply.bytes.fill(0xff)
    const bytes = reply.dirent(0, name, 0, length, 9, 'directory', 2 ** 33)
    t.equal(bytes, Math.ceil((24 + length) / 8) * 8)
    t.equal(bytes, Reply.direntBytes(length, false))
    t.equal(reply.bytes.readBigUInt64LE(16), 9n)
    t.equal(reply.bytes.readBigUInt64LE(24), 2n ** 33n)
    t.equal(reply.bytes.readUInt32LE(32), length)
    t.equal(reply.bytes.readUInt32LE(36), 4)
    t.same(reply.bytes.subarray(40, 40 + length), name)
    t.same(reply.bytes.subarray(40 + length, 16 + bytes), Buffer.alloc(bytes - 24 - length))
    t.equal(reply.bytes[16 + bytes], 0xff, 'nothing after it is touched')
  }
})

t.test('directory entries with attributes', async t => {
  const reply = new Reply(Buffer.alloc(8192))
  t.equal(reply.attributesOfDirent(8, entry), 128)
  t.equal(reply.dirent(136, Buffer.from('a name'), 2, 6, entry.node, 'charDevice', 3), 32)
  t.equal(Reply.direntBytes(4, true), 160)
  t.equal(reply.bytes.readBigUInt64LE(24), BigInt(entry.node))
  t.equal(reply.bytes.readUInt32LE(24 + 100), 0o20640)
  t.equal(reply.bytes.toString('latin1', 24 + 152, 24 + 156), 'name')
  reply.attributesOfDirent(8, undefined)
  t.equal(reply.bytes.readBigUInt64LE(24), 0n, 'without them the kernel counts no look-up')
})

t.test('the file system', async t => {
  const reply = new Reply(Buffer.alloc(8192))
  reply.bytes.fill(0xff)
  t.equal(reply.fileSystem(1234), 80)
  t.equal(reply.bytes.readBigUInt64LE(16 + 24), 1234n)
  const words = [40, 44, 48].map(at => reply.bytes.readUInt32LE(16 + at))
  t.same(words, [512, 255, 512])
})
