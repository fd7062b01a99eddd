import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { Bootstrap, type WalkEntry } from '../../../src/erofs/bootstrap.js'
import type {
  DirectoryInode,
  ImageBlob,
  ImageChunk,
  ImageInode,
  InodeAttributes,
  RegularInode,
} from '../../../src/erofs/image-tree.js'
import { deviceNumbers } from '../../../src/erofs/inode.js'
import { encodeBootstrap, encodeBootstrapPieces } from '../../../src/erofs/writer.js'

const MiB = 1 << 20
const OPTIONS = { chunkSize: MiB, compressor: 'zstd', digester: 'blake3' } as const

const attributes: InodeAttributes = { mode: 0o644, uid: 1, gid: 2, mtimeSec: 3, mtimeNsec: 4 }

function directory(
  children: Record<string, ImageInode>,
  more: Partial<InodeAttributes> = {},
): DirectoryInode {
  const own = { ...attributes, mode: 0o755, implicit: false, ...more }
  return { ...own, type: 'directory', children: new Map(Object.entries(children)) }
}

function newBlob(id: string): ImageBlob {
  return {
    id: id.repeat(64),
    chunkSize: MiB,
    chunkCount: 0,
    compressor: 'zstd',
    digester: 'blake3',
    features: 0x70000021,
    compressedSize: 1 << 30,
    uncompressedSize: 0,
    ciCompressor: 'none',
    ciOffset: 1 << 29,
    ciCompressedSize: 0,
    ciUncompressedSize: 0,
  }
}

/** A chunk at the end of the blob. */
function newChunk(blob: ImageBlob, size = MiB): ImageChunk {
  const index = blob.chunkCount++
  const chunk: ImageChunk = {
    blob,
    index,
    digest: (index + 1).toString(16).padStart(64, blob.id[0]),
    uncompressedOffset: blob.uncompressedSize,
    uncompressedSize: size,
    compressedOffset: blob.uncompressedSize,
    compressedSize: size,
  }
  blob.uncompressedSize += Math.ceil(size / 4096) * 4096
  blob.ciCompressedSize = blob.ciUncompressedSize = blob.chunkCount * 16
  return chunk
}

function regular(chunks: ImageChunk[], more: Partial<InodeAttributes> = {}): RegularInode {
  const sizeBytes = chunks.reduce((sum, chunk) => sum + chunk.uncompressedSize, 0)
  return { ...attributes, ...more, type: 'regular', sizeBytes, chunks }
}

function open(root: DirectoryInode): { bootstrap: Bootstrap; entries: Map<string, WalkEntry> } {
  const bootstrap = Bootstrap.open(new MemorySource(encodeBootstrap(root, OPTIONS).bytes))
  const entries = new Map<string, WalkEntry>()
  for (const entry of bootstrap.walk()) entries.set(Buffer.from(entry.path()).toString('latin1'), entry)
  return { bootstrap, entries }
}

t.test('what is written is what a reader finds', async t => {
  const blob = newBlob('a')
  const file = regular([newChunk(blob), newChunk(blob, 12_345)], { mode: 0o4755, uid: 4294967294 })
  const xattrs = new Map([
    ['user.empty', Buffer.alloc(0)],
    ['security.capability', Buffer.from([1, 2, 3, 255])],
    ['system.posix_acl_access', Buffer.alloc(44, 7)],
    ['trusted.x', Buffer.alloc(3000, 9)],
  ])
  const root = directory({
    file,
    link: file,
    'bad\xff\xfe': regular([], { mtimeSec: -5, mtimeNsec: 999_999_999 }),
    long: { ...attributes, type: 'symlink', target: Buffer.alloc(4095, 'x') },
    d: directory({ far: regular([], { mtimeSec: 2 ** 40 }), again: file }, { mode: 0o1777, xattrs }),
    chr: { ...attributes, type: 'charDevice', major: 0xfff, minor: 0xfffff },
    blk: { ...attributes, type: 'blockDevice', major: 8, minor: 1 },
    fifo: { ...attributes, type: 'fifo', xattrs },
    sock: { ...attributes, type: 'socket' },
  })
  const { bootstrap, entries } = open(root)
  t.equal(entries.size, 12)
  const get = (path: string) => entries.get(path)!.inode
  t.match(get('file'), {
    type: 'regular',
    mode: 0o104755,
    uid: 4294967294,
    gid: 2,
    nlink: 3,
    size: MiB + 12_345,
  })
  t.equal(get('file').nid, get('link').nid)
  t.equal(get('file').nid, get('d/again').nid)
  t.match(get('bad\xff\xfe'), { size: 0, mtime: -5, mtimeNsec: 999_999_999, nlink: 1 })
  t.match(get('d'), { type: 'directory', mode: 0o41777, nlink: 2 })
  t.match(get(''), { nlink: 3, mtime: 3, mtimeNsec: 4 })
  t.equal(get('d/far').mtime, 2 ** 40)
  t.equal(Buffer.from(bootstrap.readLink(get('long'))).toString(), 'x'.repeat(4095))
  t.same(deviceNumbers(get('chr')), { major: 0xfff, minor: 0xfffff })
  t.same(deviceNumbers(get('blk')), { major: 8, minor: 1 })
  for (const path of ['d', 'fifo']) {
    const found = bootstrap
      .xattrs(get(path))
      .map(({ name, value }) => [Buffer.from(name).toString(), value.length])
    t.same(found, [
      ['security.capability', 4],
      ['system.posix_acl_access', 44],
      ['trusted.x', 3000],
      ['user.empty', 0],
    ])
  }
  t.match(
    [...bootstrap.fileChunks(get('d/again'))],
    [
      { blobIndex: 0, chunkIndex: 0, uncompressedOffset: 0, length: MiB, fileOffset: 0 },
      { blobIndex: 0, chunkIndex: 1, uncompressedOffset: MiB, length: 12_345, fileOffset: MiB },
    ],
  )
  const digest = bootstrap.chunkDigests(0)?.digest(1)
  t.equal(Buffer.from(digest ?? []).toString('hex'), file.chunks[1]!.digest)
})

t.test('names of one file are told from files of one content', async t => {
  const blob = newBlob('a')
  const [chunk, other] = [newChunk(blob), newChunk(blob)]
  const [shared, empty] = [regular([chunk, other]), regular([])]
  const { entries } = open(
    directory({
      a: shared,
      alike: regular([chunk, other]),
      begun: regular([chunk]),
      d: directory({ again: shared, empty }),
      empty,
      nothing: regular([]),
    }),
  )
  const nids = new Set<number>()
  for (const [path, nlink] of [
    ['a', 2],
    ['alike', 1],
    ['begun', 1],
    ['empty', 2],
    ['nothing', 1],
  ] as const) {
    const inode = entries.get(path)?.inode
    t.equal(inode?.nlink, nlink, path)
    nids.add(inode?.nid ?? 0)
  }
  t.equal(nids.size, 5)
  t.equal(entries.get('d/again')?.inode.nid, entries.get('a')?.inode.nid)
  t.equal(entries.get('d/empty')?.inode.nid, entries.get('empty')?.inode.nid)
})

t.test('equal trees give equal bytes, whatever order they were filled in', async t => {
  const make = (reverse: boolean): Buffer => {
    const blob = newBlob('b')
    const chunks = [newChunk(blob, 100), newChunk(blob, 200)]
    const names: [string, ImageInode][] = [
      ['a', regular([chunks[0]!])],
      ['Z', regular([chunks[1]!])],
      ['!first', directory({})],
      ['\xffx', directory({})],
    ]
    const xattrs: [string, Buffer][] = [
      ['user.b', Buffer.from('1')],
      ['user.a', Buffer.from('2')],
    ]
    if (reverse) {
      names.reverse()
      xattrs.reverse()
    }
    return encodeBootstrap(directory(Object.fromEntries(names), { xattrs: new Map(xattrs) }), OPTIONS).bytes
  }
  t.equal(Buffer.compare(make(false), make(true)), 0)
})

t.test('the pieces of a bootstrap are the whole of it', async t => {
  for (const [what, chunkCount] of [
    ['more metadata than chunks', 10],
    ['more chunks than metadata', 5000],
  ] as const) {
    const blob = newBlob('a')
    const file = regular(Array.from({ length: chunkCount }, () => newChunk(blob)))
    const root = directory({ d: directory({ file }), again: file })
    const { pieces, blobs } = encodeBootstrapPieces(root, { ...OPTIONS, prefetch: [file] })
    // A piece may be overwritten by the next.
    const copies = Array.from(pieces, piece => Buffer.from(piece))
    const whole = encodeBootstrap(root, { ...OPTIONS, prefetch: [file] })
    t.ok(Buffer.concat(copies).equals(whole.bytes), what)
    t.same(blobs, whole.blobs)
  }
})

t.test('a file whose chunks lie together is one extent for the kernel', async t => {
  const blob = newBlob('c')
  const other = newBlob('d')
  const bits = (chunks: ImageChunk[]): number => {
    const { entries } = open(directory({ f: regular(chunks) }))
    return entries.get('f')!.inode.u
  }
  t.equal(bits([newChunk(blob, 5)]), 0x28, 'one chunk')
  t.equal(bits([newChunk(blob), newChunk(blob)]), 0x29, 'exactly 2 MiB')
  t.equal(bits([newChunk(blob), newChunk(blob), newChunk(blob, 1)]), 0x2a, 'a little more')
  t.equal(bits(Array.from({ length: 6 }, (_, i) => newChunk(blob, i < 5 ? MiB : 12_345))), 0x2b)
  const zero = newChunk(blob)
  t.equal(bits([zero, zero]), 0x28, 'a repeated chunk')
  t.equal(bits([newChunk(blob), newChunk(other)]), 0x28, 'two blobs')
})

t.test('chunk numbers above 16 bits and many devices', async t => {
  const blob = newBlob('e')
  const chunks = Array.from({ length: 70_000 }, () => newChunk(blob, 10))
  const files = Object.fromEntries(chunks.slice(69_990).map((chunk, i) => [`f${i}`, regular([chunk])]))
  const { bootstrap, entries } = open(directory(files))
  const [piece] = [...bootstrap.fileChunks(entries.get('f9')!.inode)]
  t.match(piece, { chunkIndex: 69_999, uncompressedOffset: 69_999 * 4096, blobIndex: 0 })

  const blobs = Array.from({ length: 254 }, (_, i) => ({
    ...newBlob('0'),
    id: i.toString(16).padStart(64, '0'),
  }))
  const oneEach = Object.fromEntries(
    blobs.map((b, i) => [`f${String(i).padStart(3, '0')}`, regular([newChunk(b, 10)])]),
  )
  const many = open(directory(oneEach))
  t.same(
    many.bootstrap.blobs.map(b => b.blobId),
    blobs.map(b => b.id),
    'blobs stand in the order of their first use',
  )
  const last = [...many.bootstrap.fileChunks(many.entries.get('f253')!.inode)]
  t.equal(last[0]?.blobIndex, 253)
  const tooMany = { ...oneEach, more: regular([newChunk(newBlob('f'), 10)]) }
  t.throws(() => encodeBootstrap(directory(tooMany), OPTIONS), { code: 'IMAGE_TOO_LARGE', message: /254/ })
})

t.test('directories of 100,000 entries and of 1,500 levels', async t => {
  const empty = regular([])
  const files = Array.from({ length: 100_000 }, (_, i) => [`f${i}`, { ...empty }] as const)
  const { bootstrap, entries } = open(directory({ wide: directory(Object.fromEntries(files)) }))
  t.equal(entries.size, 100_002)
  t.equal(bootstrap.lookup('wide/f77777')?.nid, entries.get('wide/f77777')?.inode.nid)
  t.equal(bootstrap.lookup('wide/g'), undefined)
  let deep = directory({})
  for (let i = 0; i < 1500; i++) deep = directory({ d: deep })
  t.equal(open(deep).entries.size, 1501)
})

t.test('an image without data has no device, and its prefetch table names the root', async t => {
  const bare = encodeBootstrap(directory({ d: directory({}) }), OPTIONS)
  t.equal(bare.blobs.length, 0)
  const { superblock, blobs } = Bootstrap.open(new MemorySource(bare.bytes))
  t.same([superblock.deviceCount, blobs.length, bare.bytes.length % 4096], [0, 0, 0])
  const root = directory({ f: regular([newChunk(newBlob('a'), 10)]) })
  const { bytes } = encodeBootstrap(root, { ...OPTIONS, prefetch: [root] })
  const bootstrap = Bootstrap.open(new MemorySource(bytes))
  t.same(bootstrap.prefetchNids(), [bootstrap.superblock.rootNid])
})
