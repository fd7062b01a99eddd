import { randomBytes } from 'node:crypto'
import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { deviceNumbers, type Inode } from '../../../src/erofs/inode.js'
import { patched } from '../../helpers/patch.js'
import { buildImage, type TestNode } from '../../helpers/rafs-image.js'

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1')
const file = (name: string, size: number): TestNode => ({ name, mode: 0o100644, data: randomBytes(size) })
const dir = (name: string, children: TestNode[]): TestNode => ({ name, mode: 0o40755, children })

const tree: TestNode[] = [
  dir(
    'big',
    Array.from({ length: 900 }, (_, i) => file(`entry-with-a-long-name-${i}`, i % 3)),
  ),
  dir('empty', []),
  dir('deep', [dir('er', [dir('!st', [file('file', 20000)])])]),
  file('!first', 1),
  { name: 'link', mode: 0o120777, target: 'deep/er' },
  { name: 'long-link', mode: 0o120777, target: 'x/'.repeat(3000) },
  { name: 'chr', mode: 0o20600, rdev: (70000 & 0xff) | (240 << 8) | ((70000 & 0xfff00) << 12) },
  { name: 'fifo', mode: 0o10600 },
  { name: 'sock', mode: 0o140600 },
  { name: 'compact', mode: 0o100600, data: randomBytes(100), compact: true, uid: 7, gid: 8 },
  { name: 'old', mode: 0o100600, data: randomBytes(1), mtime: -5n, uid: 2 ** 32 - 2, gid: 2 ** 32 - 3 },
  { name: 'odd-\xff', mode: 0o100600, data: randomBytes(1) },
  {
    name: 'attributed',
    mode: 0o100644,
    data: randomBytes(10),
    xattrs: [
      { index: 1, suffix: 'empty', value: '' },
      { index: 6, suffix: 'capability', value: '\x01\x00' },
      { index: 2, suffix: '', value: 'acl' },
      { index: 4, suffix: 't', value: 'x'.repeat(3000) },
    ],
  },
]
const image = buildImage(tree)
const open = (bytes: Uint8Array) => Bootstrap.open(new MemorySource(bytes))
const bootstrap = open(image.bootstrap)

function at(path: string): Inode {
  const inode = bootstrap.lookup(Buffer.from(path, 'latin1'))
  if (inode === undefined) throw new Error(`${path} is missing`)
  return inode
}

t.test('walk gives every name once, parents first', async t => {
  const paths = [...bootstrap.walk()].map(entry => text(entry.path()))
  t.equal(paths[0], '')
  t.same([...paths].sort(), [...image.nids.keys()].sort())
  t.equal(new Set(paths).size, paths.length)
  for (const path of paths.slice(1)) {
    const parent = path.split('/').slice(0, -1).join('/')
    t.ok(paths.indexOf(parent) < paths.indexOf(path), path)
  }
})

t.test('lookup finds every path and nothing else', async t => {
  for (const [path, nid] of image.nids) t.equal(bootstrap.lookup(Buffer.from(path, 'latin1'))?.nid, nid, path)
  t.equal(bootstrap.lookup('/deep//er/')?.nid, image.nids.get('deep/er'))
  t.equal(bootstrap.lookup('')?.nid, bootstrap.root.nid)
  for (const path of [
    'nothing',
    'deep/nothing',
    '!first/x',
    'big/a',
    'big/z',
    'empty/x',
    'deep/er/!st/file/x',
    ' ',
  ])
    t.equal(bootstrap.lookup(path), undefined, path)
})

t.test('inodes', async t => {
  t.match(at('compact'), { type: 'regular', size: 100, uid: 7, gid: 8, mtime: 0, nlink: 1, headerSize: 32 })
  t.match(at('old'), { mtime: -5, uid: 2 ** 32 - 2, gid: 2 ** 32 - 3, headerSize: 64 })
  t.same(deviceNumbers(at('chr')), { major: 240, minor: 70000 })
  t.equal(at('fifo').type, 'fifo')
  t.equal(at('sock').type, 'socket')
  t.equal(at('deep').nlink, 3)
})

t.test('symlinks, inline and over several blocks', async t => {
  t.equal(text(bootstrap.readLink(at('link'))), 'deep/er')
  t.equal(text(bootstrap.readLink(at('long-link'))), 'x/'.repeat(3000))
  t.throws(() => bootstrap.readLink(at('fifo')), { code: 'RAFS_FIELD' })
})

t.test('xattrs', async t => {
  const xattrs = bootstrap.xattrs(at('attributed')).map(({ name, value }) => [text(name), text(value)])
  t.same(xattrs, [
    ['user.empty', ''],
    ['security.capability', '\x01\x00'],
    ['system.posix_acl_access', 'acl'],
    ['trusted.t', 'x'.repeat(3000)],
  ])
  t.same(bootstrap.xattrs(at('link')), [])
})

t.test('file chunks', async t => {
  const chunks = [...bootstrap.fileChunks(at('deep/er/!st/file'))]
  t.equal(chunks.length, 5)
  t.same(
    chunks.map(chunk => [chunk.fileOffset, chunk.length]),
    [0, 4096, 8192, 12288, 16384].map(offset => [offset, Math.min(4096, 20000 - offset)]),
  )
  t.ok(chunks.every(chunk => chunk.blobIndex === 0 && chunk.uncompressedOffset === chunk.chunkIndex * 4096))
  t.same([...bootstrap.fileChunks(at('empty'))], [])
})

t.test('digests of the chunk table', async t => {
  const digests = bootstrap.chunkDigests(0)
  t.equal(digests?.size, bootstrap.blobs[0]?.chunkCount)
  t.equal(digests?.digest(digests.size), undefined)
  t.equal(digests?.digest(0)?.length, 32)
  t.equal(digests?.crc32c(0), undefined)
  t.equal(open(buildImage(tree, { chunkTable: false }).bootstrap).chunkDigests(0), undefined)
})

t.test('chunk table records that cannot be', async t => {
  const cases: [string, number, number][] = [
    ['blob_index', 32, 1],
    ['index', 72, 1 << 20],
    ['crc32', 36, 0x10],
  ]
  for (const [field, offset, value] of cases) {
    const damaged = open(patched(image.bootstrap, image.chunkTable + offset, 4, value))
    t.throws(() => damaged.chunkDigests(0), { code: 'RAFS_FIELD', context: { field, offset: Number } })
  }
  const first = image.bootstrap.readUInt32LE(image.chunkTable + 72)
  const twice = patched(image.bootstrap, image.chunkTable + 80 + 72, 4, first)
  twice.fill(0xab, image.chunkTable + 80, image.chunkTable + 112)
  t.throws(() => open(twice).chunkDigests(0), { code: 'RAFS_FIELD', message: /different digests/ })
  const swapped = Buffer.from(image.bootstrap)
  image.bootstrap.copy(swapped, image.chunkTable, image.chunkTable + 80, image.chunkTable + 160)
  image.bootstrap.copy(swapped, image.chunkTable + 80, image.chunkTable, image.chunkTable + 80)
  for (const chunk of [first, image.bootstrap.readUInt32LE(image.chunkTable + 80 + 72)])
    t.same(open(swapped).chunkDigests(0)?.digest(chunk), open(image.bootstrap).chunkDigests(0)?.digest(chunk))
  const unknown = Buffer.from(image.bootstrap).fill(0, image.chunkTable, image.chunkTable + 32)
  t.equal(open(unknown).chunkDigests(0)?.digest(first), undefined, 'a digest of zeros is none')
  const crc = patched(patched(unknown, image.chunkTable + 36, 4, 0x10), image.chunkTable + 76, 4, 0xdeadbeef)
  t.equal(open(crc).chunkDigests(0)?.crc32c(first), 0xdeadbeef)
})

t.test('the prefetch table ends at a zero', async t => {
  t.same(
    open(buildImage([], { prefetch: [128, 200, 0, 300] }).bootstrap.fill(1, 1472, 1473)).prefetchNids(),
    [128, 200],
  )
  t.same(bootstrap.prefetchNids(), [])
})

t.test('damaged inodes are named with field and offset', async t => {
  const cases: [string, string, number, 1 | 2 | 4 | 8, number | bigint][] = [
    ['old', 'i_format', 0, 2, 0x0003],
    ['old', 'i_format', 0, 2, 0x0109],
    ['old', 'i_format', 0, 2, 0x0005],
    ['deep', 'i_format', 0, 2, 0x0009],
    ['old', 'i_mode', 4, 2, 0],
    ['old', 'i_nlink', 44, 4, 0],
    ['old', 'i_size', 8, 8, 2n ** 62n],
    ['old', 'i_mtime', 32, 8, 2n ** 62n],
    ['link', 'i_size', 8, 8, 0],
    ['link', 'i_size', 8, 8, 1 << 30],
  ]
  for (const [path, field, offset, width, value] of cases) {
    const { offset: base } = at(path)
    const damaged = open(patched(image.bootstrap, base + offset, width, value))
    t.throws(() => damaged.lookup(path), { code: 'RAFS_FIELD', context: { field, offset: base + offset } })
  }
})

t.test('damaged chunk indexes', async t => {
  const inode = at('deep/er/!st/file')
  const index = inode.offset + 64
  const cases: [string, number, 1 | 2 | 4 | 8, number | bigint][] = [
    ['i_u', inode.offset + 16, 4, 0x40],
    ['i_u', inode.offset + 16, 4, 0x10020],
    ['i_size', inode.offset + 8, 8, 2n ** 50n],
    ['device_id', index + 2, 2, 0],
    ['device_id', index + 2, 2, 9],
    ['chunk index', index + 2, 2, 0x0501],
    ['blkaddr', index + 4, 4, 0xffffffff],
  ]
  for (const [field, offset, width, value] of cases) {
    const damaged = open(patched(image.bootstrap, offset, width, value))
    const read = () => [...damaged.fileChunks(damaged.inode(inode.nid))]
    t.throws(read, { code: 'RAFS_FIELD', context: { field } }, field)
  }
})

t.test('damaged directories', async t => {
  const { offset } = at('deep')
  const block = offset + 64
  // Entries: ., .., er; names at 36, 37, 39.
  const cases: [string, number, 1 | 2, number][] = [
    ['nameoff', block + 8, 2, 13],
    ['nameoff', block + 8, 2, 0],
    ['nameoff', block + 8, 2, 4000],
    ['nameoff', block + 20, 2, 12],
    ['nameoff', block + 32, 2, 60],
    ['file_type', block + 34, 1, 8],
    ['name', block + 39, 1, 0x2f],
    ['name length', block + 39, 1, 0],
  ]
  for (const [field, at, width, value] of cases) {
    const damaged = open(patched(image.bootstrap, at, width, value))
    t.throws(
      () => [...damaged.walk()],
      { code: 'RAFS_FIELD', context: { field, offset: Number } },
      `${field} ${value}`,
    )
  }
})

t.test('damaged xattrs', async t => {
  const inode = at('attributed')
  const cases: [string, number, 1 | 2, number][] = [
    ['shared_count', 64 + 4, 1, 1],
    ['name_index', 64 + 12 + 1, 1, 5],
    ['xattr size', 64 + 12 + 2, 2, 60000],
  ]
  for (const [field, offset, width, value] of cases) {
    const damaged = open(patched(image.bootstrap, inode.offset + offset, width, value))
    t.throws(() => damaged.xattrs(inode), { code: 'RAFS_FIELD', context: { field } })
  }
})

t.test('loops end in a fault, not in a hang', async t => {
  const block = at('deep').offset + 64
  for (const target of ['', 'deep', 'big']) {
    const looped = open(patched(image.bootstrap, block + 24, 8, image.nids.get(target)!))
    t.throws(() => [...looped.walk()], { code: 'RAFS_FIELD', message: /two places in the tree/ })
  }
})

t.test('a tree of overlapping directories is bounded by the size of the file', async t => {
  // 600 directories whose entries are the same block of 250 names: 150,000 names in a file with room for far fewer.
  const many = Array.from({ length: 250 }, (_, i) => file(`file-${i}`, 0))
  const shared = buildImage([
    dir('a', many),
    ...Array.from({ length: 600 }, (_, i) => dir(`d${i}`, [file('f', 0)])),
    file('one', 1),
  ])
  const bytes = shared.bootstrap
  const from = open(bytes).inode(shared.nids.get('a')!)
  for (let i = 0; i < 600; i++) {
    const { offset } = open(bytes).inode(shared.nids.get(`d${i}`)!)
    bytes.writeUInt16LE(1, offset)
    bytes.writeBigUInt64LE(4096n, offset + 8)
    bytes.writeUInt32LE(from.u, offset + 16)
  }
  t.throws(() => [...open(bytes).walk()], {
    code: 'RAFS_FIELD',
    message: /claim more bytes than the file has/,
  })
})

t.test('files that share their chunk indexes are bounded too', async t => {
  const bytes = buildImage(Array.from({ length: 300 }, (_, i) => file(`f${i}`, 1))).bootstrap
  const half = bytes.length / 2
  for (const entry of open(bytes).walk()) {
    if (entry.inode.type === 'regular')
      bytes.writeBigUInt64LE(BigInt((half / 8) * 4096), entry.inode.offset + 8)
  }
  t.throws(() => [...open(bytes).walk()], {
    code: 'RAFS_FIELD',
    message: /claim more bytes than the file has/,
  })
})

t.test('a root that is no directory', async t => {
  const damaged = open(patched(image.bootstrap, 1038, 2, image.nids.get('!first')!))
  t.throws(() => damaged.root, { code: 'RAFS_FIELD', context: { field: 'i_mode' } })
  t.throws(() => open(patched(image.bootstrap, 1038, 2, 65535)).root, { code: 'RAFS_TRUNCATED' })
})
