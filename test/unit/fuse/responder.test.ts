import t, { type Test } from 'tap'
import { buildForms } from '../../helpers/built-forms.js'
import { ResponderBench, readBody, request } from '../../helpers/fuse-responder.js'
import { scratch } from '../../helpers/scratch.js'
import { OPCODE } from '../../../src/fuse/protocol.js'
import { sumCounters } from '../../../src/fuse/counters.js'

const [EISDIR, ENOTDIR, EINVAL, EROFS, ERANGE, ENAMETOOLONG, ENOSYS, ENODATA, ESTALE] = [
  21, 20, 22, 30, 34, 36, 38, 61, 116,
]
const form = (await buildForms({ files: 300 })).find(({ name }) => name === 'v6 none sha256')
if (!form) throw new Error('no such form')
const stored = [...form.blobs.values()][0]!

const u32 = (...values: number[]): Buffer => Buffer.from(new Uint32Array(values).buffer)
const name = (text: string): Buffer => Buffer.from(`${text}\0`)

function bench(t: Test, flags?: ConstructorParameters<typeof ResponderBench>[2]): ResponderBench {
  const made = new ResponderBench(form!, scratch(t), flags)
  t.teardown(() => made.close())
  return made
}

t.test('names', async t => {
  const b = bench(t)
  const directory = b.lookup(1, 'dir')
  const file = b.lookup(directory, 'several-chunks')
  t.not(file, 0)
  t.equal(b.lookup(1, 'none'), 0, 'an absent name is an answer, not an error')
  t.equal(b.lookup(directory, '.'), directory)
  t.equal(b.lookup(file, '.'), file, 'also of a file: a file handle asks so')
  t.equal(b.lookup(directory, '..'), 1)
  t.equal(b.lookup(1, '..'), 1)
  t.equal(b.lookup(1, 'hard'), b.lookup(directory, 'raw'), 'a hard link is the same node')
  const errno = (node: number, text: string) => b.ask(OPCODE.LOOKUP, node, name(text))?.errno
  t.equal(errno(file, 'x'), ENOTDIR)
  t.equal(errno(directory, 'a/b'), EINVAL)
  t.equal(errno(directory, 'n'.repeat(256)), ENAMETOOLONG)
  t.equal(errno(2 ** 41 + 5, 'x'), ESTALE, 'of an image that is not shown')
  t.equal(b.ask(OPCODE.LOOKUP, 1, Buffer.from('unended'))?.errno, EINVAL)
  t.same(b.failures, [])
})

t.test('attributes', async t => {
  const b = bench(t)
  const attr = (node: number) => b.ask(OPCODE.GETATTR, node, Buffer.alloc(16))!.payload
  const file = b.lookup(1, 'same')
  t.equal(attr(file).readUInt32LE(16 + 60), 0o100640)
  t.equal(attr(file).readUInt32LE(16 + 68), 7)
  t.equal(Number(attr(file).readBigUInt64LE(16)), file)
  t.equal(attr(1).readUInt32LE(16 + 60), 0o40755, 'the root has the mode of the image')
  t.equal(Number(attr(1).readBigUInt64LE(16)), 1)
  t.equal(attr(b.lookup(1, 'chr')).readUInt32LE(16 + 76), 0x103)
  const link = b.ask(OPCODE.READLINK, b.lookup(1, 'link'))
  t.equal(link?.payload.toString(), 'dir/several-chunks')
  t.equal(b.ask(OPCODE.READLINK, file)?.errno, EINVAL)
})

t.test('reads: of nothing local, of all, and beyond the end', async t => {
  const b = bench(t)
  const file = b.lookup(b.lookup(1, 'dir'), 'several-chunks')
  t.equal(b.ask(OPCODE.READ, file, readBody(4090, 10)), undefined, 'the answer comes from elsewhere')
  const [miss] = b.misses
  t.match(miss, { uniqueLow: 0x102, uniqueHigh: 0x80000000, length: 10, node: file })
  const [piece] = miss!.pieces
  b.fill(0, stored.subarray(0, 1 << 20))
  t.same(
    b.ask(OPCODE.READ, file, readBody(4090, 10))?.payload,
    stored.subarray(piece!.offset, piece!.offset + 10),
  )
  t.equal(b.ask(OPCODE.READ, file, readBody(20_000, 4096))?.payload.length, 1)
  t.equal(b.ask(OPCODE.READ, file, readBody(20_001, 4096))?.payload.length, 0)
  t.equal(b.ask(OPCODE.READ, file, readBody(1e12, 4096))?.payload.length, 0)
  t.equal(b.ask(OPCODE.READ, b.lookup(1, 'empty'), readBody(0, 4096))?.payload.length, 0)
  t.equal(b.ask(OPCODE.READ, 1, readBody(0, 4096))?.errno, EINVAL)
  t.equal(b.ask(OPCODE.READ, file, Buffer.alloc(8))?.errno, EINVAL, 'cut off')
  const { hits, errors, dataReadBytes } = sumCounters(b.image.counters)
  t.same([hits[4], errors[4], dataReadBytes], [7, 2, 11], 'a miss is counted by who answers it')
})

/** Names, offsets to go on from, of a whole directory. */
function list(b: ResponderBench, node: number, size: number, plus: boolean): string[] {
  const names: string[] = []
  for (let from = 0, rounds = 0; rounds < 1000; rounds++) {
    const opcode = plus ? OPCODE.READDIRPLUS : OPCODE.READDIR
    const { payload, errno } = b.ask(opcode, node, readBody(from, size))!
    if (errno !== 0 || payload.length > size) throw new Error(`errno ${errno}, ${payload.length} bytes`)
    if (payload.length === 0) return names
    for (let at = 0; at < payload.length;) {
      const dirent = at + (plus ? 128 : 0)
      const length = payload.readUInt32LE(dirent + 16)
      names.push(payload.toString('utf8', dirent + 24, dirent + 24 + length))
      from = Number(payload.readBigUInt64LE(dirent + 8))
      at = Math.ceil((dirent + 24 + length) / 8) * 8
    }
  }
  throw new Error('endless')
}

t.test('directories, in whatever pieces', async t => {
  const b = bench(t)
  const many = b.lookup(1, 'many')
  const wanted = ['.', '..', ...Array.from({ length: 300 }, (_, i) => `entry-${String(i).padStart(3, '0')}`)]
  for (const [size, plus] of [
    [4096, false],
    [4096, true],
    [100, false],
    [200, true],
    [32768, false],
  ] as const)
    t.same(list(b, many, size, plus).sort(), wanted, `${size} ${plus}`)
  const file = b.lookup(1, 'same')
  t.equal(b.ask(OPCODE.READDIR, file, readBody(0, 4096))?.errno, ENOTDIR)
  t.equal(b.ask(OPCODE.READDIR, many, readBody(0, 8))?.payload.length, 0, 'no room for any')
})

t.test('what is made up, in the image and over it', async t => {
  const b = bench(t)
  const key = 2 ** 40 + b.image.rootIno
  b.tree.addDirectory({ ino: 2, parent: key, name: 'made' })
  b.tree.addDirectory({ ino: 3, parent: key, name: 'dir' })
  b.tree.addDirectory({ ino: 4, parent: 3, name: 'below' })
  t.equal(b.lookup(1, 'made'), 2)
  t.equal(b.lookup(1, 'dir'), 3)
  t.equal(b.lookup(3, 'below'), 4)
  t.equal(b.lookup(3, 'raw'), 0, 'what the image has there is covered')
  t.equal(b.lookup(4, '..'), 3)
  t.equal(b.lookup(3, '..'), 1)
  const plain = list(b, 1, 4096, false)
  t.equal(new Set(plain).size, plain.length, 'no name comes twice')
  t.ok(plain.includes('made') && plain.includes('dir') && plain.includes('same'))
  t.same(list(b, 1, 200, true).sort(), plain.sort())
  t.same(list(b, 4, 4096, true), ['.', '..'])
  t.equal(b.ask(OPCODE.GETATTR, 4)?.payload.readUInt32LE(16 + 60), 0o40777)
  t.equal(b.ask(OPCODE.GETATTR, 4)?.payload.readUInt32LE(16 + 32), 77)
  t.equal(b.ask(OPCODE.GETXATTR, 4, Buffer.concat([u32(0, 0), name('user.a')]))?.errno, ENODATA)
  t.equal(b.ask(OPCODE.READ, 4, readBody(0, 10))?.errno, EISDIR)
  t.equal(b.ask(OPCODE.GETATTR, 5)?.errno, ESTALE)
})

t.test('extended attributes: sizes first, then values, never ENOSYS', async t => {
  const b = bench(t)
  const file = b.lookup(1, 'attributes')
  const get = (size: number, of: string) =>
    b.ask(OPCODE.GETXATTR, file, Buffer.concat([u32(size, 0), name(of)]))!
  t.same(get(0, 'user.a').payload, u32(1, 0))
  t.equal(get(10, 'user.a').payload.toString(), 'b')
  t.equal(get(10, 'user.none').errno, ENODATA)
  t.equal(get(0, 'user.none').errno, ENODATA)
  const names = (size: number) => b.ask(OPCODE.LISTXATTR, file, u32(size, 0))!
  t.same(names(0).payload, u32(7, 0))
  t.equal(names(7).payload.toString(), 'user.a\0')
  t.equal(names(6).errno, ERANGE)
  t.equal(b.ask(OPCODE.LISTXATTR, b.lookup(1, 'same'), u32(0, 0))?.payload.readUInt32LE(0), 0)
  const directory = Buffer.concat([u32(1, 0), name('user.of.dir')])
  t.equal(b.ask(OPCODE.GETXATTR, b.lookup(1, 'dir'), directory)?.errno, ERANGE)
})

t.test('the other calls', async t => {
  const b = bench(t, new Set(['NO_OPEN_SUPPORT', 'NO_OPENDIR_SUPPORT']))
  const file = b.lookup(1, 'same')
  t.equal(b.ask(OPCODE.OPEN, file, u32(0, 0))?.errno, ENOSYS, 'once, and no more')
  t.equal(b.ask(OPCODE.OPENDIR, 1, u32(0, 0))?.errno, ENOSYS)
  const older = bench(t)
  t.equal(older.ask(OPCODE.OPEN, file, u32(0, 0))?.payload.readUInt32LE(8), 2)
  t.equal(older.ask(OPCODE.OPENDIR, 1, u32(0, 0))?.payload.readUInt32LE(8), 10)
  t.equal(sumCounters(older.image.counters).opens, 1)
  for (const opcode of [OPCODE.RELEASE, OPCODE.RELEASEDIR, OPCODE.FLUSH, OPCODE.DESTROY])
    t.same(b.ask(opcode, file, Buffer.alloc(24)), { errno: 0, payload: Buffer.alloc(0) })
  for (const opcode of [OPCODE.WRITE, OPCODE.SETATTR, OPCODE.CREATE, OPCODE.MKDIR, OPCODE.SETXATTR])
    t.equal(b.ask(opcode, 1, Buffer.alloc(64))?.errno, EROFS)
  for (const opcode of [0, 20, 31, 39, 40, 52, 4096, 0xffffffff])
    t.equal(b.ask(opcode, 1, Buffer.alloc(64))?.errno, ENOSYS)
  for (const opcode of [OPCODE.FORGET, OPCODE.BATCH_FORGET])
    t.equal(b.ask(opcode, 1, Buffer.alloc(16)), undefined)
  t.equal(b.ask(OPCODE.INTERRUPT, 0, u32(7, 0x80000000)), undefined)
  t.same(b.interrupts, [[7, 0x80000000]])
  t.equal(b.ask(OPCODE.STATFS, file)?.payload.readUInt32LE(44), 255)
  const access = (mask: number, uid: number, gid: number) => {
    const message = request(OPCODE.ACCESS, file, u32(mask, 0))
    message.writeUInt32LE(uid, 24)
    message.writeUInt32LE(gid, 28)
    return b.send(message)?.errno
  }
  // 0640, owned by 7:8.
  t.same(
    [access(4, 7, 0), access(6, 7, 0), access(4, 1, 8), access(2, 1, 8), access(4, 1, 1)],
    [0, 0, 0, 13, 13],
  )
  t.same([access(6, 0, 0), access(1, 0, 0)], [0, 13], 'root lacks only what nobody may')
  const seek = (whence: number, offset: number) => {
    const body = Buffer.alloc(24)
    body.writeBigUInt64LE(BigInt(offset), 8)
    body.writeUInt32LE(whence, 16)
    return b.ask(OPCODE.LSEEK, file, body)
  }
  t.equal(Number(seek(4, 1)?.payload.readBigUInt64LE(0)), 4096)
  t.equal(seek(3, 4096)?.errno, 6)
  t.equal(seek(0, 0)?.errno, EINVAL)
})

t.test('messages that are none', async t => {
  const b = bench(t)
  t.equal(b.send(Buffer.alloc(10)), undefined)
  const lying = request(OPCODE.GETATTR, 1, Buffer.alloc(16))
  lying.writeUInt32LE(9999, 0)
  t.equal(b.send(lying), undefined)
  const odd = request(OPCODE.GETATTR, 1, Buffer.alloc(0))
  odd.writeBigUInt64LE(2n ** 64n - 1n, 16)
  t.equal(b.send(odd)?.errno, ESTALE)
  const far = request(OPCODE.READ, b.lookup(1, 'same'), readBody(0, 10))
  far.writeBigUInt64LE(2n ** 64n - 1n, 48)
  t.equal(b.send(far)?.errno, EINVAL)
})

t.test('an inode that is not one fails alone', async t => {
  const b = bench(t)
  t.equal(b.ask(OPCODE.GETATTR, 2 ** 40 + 2 ** 39)?.errno, 5)
  t.equal(b.failures.length, 1)
  t.match(b.failures[0]?.code, /^RAFS_/)
})
