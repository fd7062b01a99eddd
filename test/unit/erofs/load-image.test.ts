import { readFileSync } from 'node:fs'
import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import type {
  DirectoryInode,
  ImageInode,
  RafsImage,
  RegularInode,
  SymlinkInode,
} from '../../../src/erofs/image-tree.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { encodeBootstrap } from '../../../src/erofs/writer.js'
import {
  type ExpectedEntry,
  fixturesDirectory,
  rafsV6Images,
  readExpected,
} from '../../helpers/rafs-fixtures.js'
import { type TestNode, buildImage } from '../../helpers/rafs-image.js'

const fixtures = fixturesDirectory()
const skip = fixtures === undefined && 'the images of the reference tools are not at hand'

const load = (bytes: Uint8Array): RafsImage => loadImage(new MemorySource(bytes))
const file = (name: string, size: number): TestNode => ({
  name,
  mode: 0o100644,
  data: Buffer.alloc(size, name),
})
const dir = (name: string, children: TestNode[]): TestNode => ({ name, mode: 0o40755, children })

t.test('everything of an image is in the tree', async t => {
  const built = buildImage(
    [
      dir('a', [dir('b', [file('deep', 10_000)])]),
      { ...file('compact', 1), compact: true, uid: 7, gid: 8 },
      { name: 'device', mode: 0o60600, rdev: 0x801 },
      { ...file('owned', 5000), uid: 1, gid: 2, mtime: -3n },
      { name: 'target', mode: 0o120777, target: 'y/'.repeat(2500) },
      { ...file('xattrs', 0), xattrs: [{ index: 1, suffix: 'name', value: 'value' }] },
    ],
    { prefetch: [128, 99_999] },
  )
  const image = load(built.bootstrap)
  const entries = flatten(image.root)
  t.same([...entries.keys()], ['a', 'a/b', 'a/b/deep', 'compact', 'device', 'owned', 'target', 'xattrs'])
  const deep = entries.get('a/b/deep') as RegularInode
  t.same(
    deep.chunks.map(({ uncompressedSize }) => uncompressedSize),
    [4096, 4096, 1808],
  )
  t.match(entries.get('compact'), { mode: 0o644, uid: 7, gid: 8, mtimeSec: 0 })
  t.match(entries.get('device'), { type: 'blockDevice', mode: 0o600, major: 8, minor: 1 })
  t.match(entries.get('owned'), { uid: 1, gid: 2, mtimeSec: -3, sizeBytes: 5000 })
  t.equal(Buffer.from((entries.get('target') as SymlinkInode).target).toString(), 'y/'.repeat(2500))
  t.same(entries.get('xattrs')?.xattrs, new Map([['user.name', Buffer.from('value')]]))
  t.same(image.prefetch, [image.root], 'prefetch hints that name nothing are left out')
  t.match(image, {
    version: 6,
    chunkSize: 4096,
    compressor: 'zstd',
    digester: 'blake3',
    explicitOwners: true,
  })
  t.match(image.blobs, [{ id: built.blobId, chunkSize: 4096, compressor: 'zstd' }])
})

t.test('an image without a chunk table has chunks without digests', async t => {
  const image = load(buildImage([file('f', 100)], { chunkTable: false }).bootstrap)
  const [chunk] = (image.root.children.get('f') as RegularInode).chunks
  t.match(chunk, { index: 0, digest: '0'.repeat(64), uncompressedSize: 100 })
})

t.test('names of one inode share an object', async t => {
  const linked: RegularInode = { ...plain, type: 'regular', sizeBytes: 0, chunks: [] }
  const fifo: ImageInode = { ...plain, type: 'fifo' }
  const inner = new Map<string, ImageInode>([
    ['c', linked],
    ['fifo', fifo],
  ])
  const children = new Map<string, ImageInode>([
    ['a', linked],
    ['b', { ...plain, type: 'directory', implicit: false, children: inner }],
    ['fifo', fifo],
  ])
  const { bytes } = encode({ ...plain, type: 'directory', implicit: false, children })
  const entries = flatten(load(bytes).root)
  t.equal(entries.get('a'), entries.get('b/c'))
  t.same(entries.get('fifo'), entries.get('b/fifo'))
  t.not(entries.get('fifo'), entries.get('b/fifo'), 'only regular files are shared')
})

t.test('inodes of 2022 with one number are one file', async t => {
  const { bootstrap, nids, metaOffset } = buildImage([file('a', 5000), file('b', 5000), file('c', 10)], {
    chunkTable: false,
  })
  const write = (name: string, ino: number, nlink: number) => {
    const at = metaOffset + nids.get(name)! * 32
    bootstrap.writeUInt32LE(ino, at + 20)
    bootstrap.writeUInt32LE(nlink, at + 44)
  }
  bootstrap.copy(
    bootstrap,
    metaOffset + nids.get('b')! * 32 + 64,
    metaOffset + nids.get('a')! * 32 + 64,
    metaOffset + nids.get('a')! * 32 + 80,
  )
  write('a', 5, 2)
  write('b', 5, 2)
  write('c', 5, 2)
  const entries = flatten(load(bootstrap).root)
  t.equal(entries.get('a'), entries.get('b'))
  t.not(entries.get('a'), entries.get('c'), 'another content is another file')
})

t.test('damage is a fault', async t => {
  const { bootstrap, nids, metaOffset, chunkTable } = buildImage([
    dir('d', [file('x', 10)]),
    file('f', 5000),
    { name: 'l', mode: 0o120777, target: 'd' },
  ])
  const at = (name: string) => metaOffset + nids.get(name)! * 32
  const faults: [string, (bytes: Buffer) => void][] = [
    ['a second place', bytes => bytes.writeBigUInt64LE(BigInt(nids.get('')!), at('d') + 64 + 24)],
    ['file type', bytes => bytes.writeUInt8(7, at('') + 64 + 3 * 12 + 10)],
    ['order', bytes => bytes.write('z', at('') + 64 + 5 * 12 + 3)],
    ['nanoseconds', bytes => bytes.writeUInt32LE(1e9, at('f') + 40)],
    ['another place than the record', bytes => bytes.writeUInt32LE(0, at('f') + 64 + 8 + 4)],
    ['a longer last piece', bytes => bytes.writeBigUInt64LE(5001n, at('f') + 8)],
    ['record beyond the blob', bytes => bytes.writeBigUInt64LE(2n ** 40n, chunkTable + 56)],
    ['no size, and a record that nobody uses', bytes => bytes.writeBigUInt64LE(0n, at('f') + 8)],
    [
      'a name that leads to another file',
      bytes => bytes.writeBigUInt64LE(BigInt(nids.get('f')!), at('d') + 64 + 24),
    ],
    ['more names than there are', bytes => bytes.writeUInt32LE(2, at('f') + 44)],
    ['count of names', bytes => bytes.writeUInt32LE(7, 1024 + 16)],
    ['record of no bytes', bytes => bytes.writeUInt32LE(0, chunkTable + 44)],
  ]
  load(bootstrap)
  for (const [what, damage] of faults) {
    const bytes = Buffer.from(bootstrap)
    damage(bytes)
    t.throws(() => load(bytes), { code: 'RAFS_FIELD' }, what)
  }
})

t.test('a tree is as deep as any path', async t => {
  const nested = (depth: number): Buffer => {
    const root: DirectoryInode = { ...plain, type: 'directory', implicit: false, children: new Map() }
    for (let directory = root; depth > 0; depth--) {
      const child: DirectoryInode = { ...root, children: new Map() }
      directory.children.set('d', child)
      directory = child
    }
    return encode(root).bytes
  }
  t.equal(flatten(load(nested(2048)).root).size, 2048)
  t.throws(() => load(nested(2049)), { code: 'RAFS_FIELD', message: /deep/ })
})

t.test('images of the reference tools are the trees they were made of', { skip }, async t => {
  for (const { name, bootstrap } of rafsV6Images(fixtures!)) {
    const image = load(readFileSync(bootstrap))
    t.same(compare(image, readExpected(fixtures!)), [], name)
    t.equal(image.blobs.length, 2)
    const secret = name === 'v6-encrypt'
    for (const { cipher } of image.blobs) {
      t.equal(cipher?.key.length, secret ? 32 : undefined)
      t.equal(cipher?.iv.length, secret ? 16 : undefined)
    }
  }
})

const plain = { mode: 0o644, uid: 0, gid: 0, mtimeSec: 0, mtimeNsec: 0 }

function encode(root: DirectoryInode) {
  return encodeBootstrap(root, { chunkSize: 1 << 20, compressor: 'zstd', digester: 'blake3' })
}

function flatten(root: DirectoryInode): Map<string, ImageInode> {
  const entries = new Map<string, ImageInode>()
  const open: [string, DirectoryInode][] = [['', root]]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [prefix, directory] = next
    for (const [name, child] of directory.children) {
      entries.set(prefix + name, child)
      if (child.type === 'directory') open.push([`${prefix}${name}/`, child])
    }
  }
  return new Map([...entries].sort(([a], [b]) => (a < b ? -1 : 1)))
}

const LETTERS = {
  regular: 'f',
  directory: 'd',
  symlink: 'l',
  charDevice: 'c',
  blockDevice: 'b',
  fifo: 'p',
  socket: 's',
}

/** Differences from what the image must hold; file content is told by another test. */
function compare(image: RafsImage, expected: ExpectedEntry[]): string[] {
  const entries = flatten(image.root)
  const names = new Map<ImageInode, number>()
  for (const inode of entries.values()) names.set(inode, (names.get(inode) ?? 0) + 1)
  const differences: string[] = []
  for (const want of expected) {
    const path = Buffer.from(want.path_hex ?? Buffer.from(want.path!).toString('hex'), 'hex').toString(
      'latin1',
    )
    const inode = entries.get(path)
    entries.delete(path)
    const got: Partial<ExpectedEntry> | undefined = inode && {
      type: LETTERS[inode.type],
      ...(inode.type !== 'symlink' && { mode: inode.mode.toString(8).padStart(4, '0') }),
      uid: inode.uid,
      gid: inode.gid,
      mtime: inode.mtimeSec,
      ...(inode.type === 'regular' && { size: inode.sizeBytes, nlink: names.get(inode)! }),
      ...(inode.type === 'symlink' && { target: Buffer.from(inode.target).toString() }),
      ...((inode.type === 'charDevice' || inode.type === 'blockDevice') && {
        rdev: [inode.major, inode.minor],
      }),
    }
    for (const [key, value] of Object.entries(got ?? { missing: true }))
      if (JSON.stringify(value) !== JSON.stringify(want[key as keyof ExpectedEntry]))
        differences.push(`${path} ${key}: ${JSON.stringify(value)}`)
    const xattrs = [...(inode?.xattrs ?? [])].map(
      ([name, value]) => `${name}=${Buffer.from(value).toString('hex')}`,
    )
    const wanted = Object.entries(want.xattrs ?? {}).map(([name, value]) => `${name}=${value}`)
    if (xattrs.sort().join() !== wanted.sort().join()) differences.push(`${path} xattrs: ${xattrs.join()}`)
  }
  return [...differences, ...[...entries.keys()].map(path => `${path} is too many`)]
}
