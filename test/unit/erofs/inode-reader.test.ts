import { closeSync, openSync } from 'node:fs'
import t, { type Test } from 'tap'
import { FileSource, MemorySource } from '../../../src/common/byte-source.js'
import { encodeImage } from '../../../src/erofs/encode-image.js'
import { RAFS_FLAGS, RAFS_SB_OFF, RAFS_SUPERBLOCK_OFFSET } from '../../../src/erofs/format.js'
import type { InodeReader } from '../../../src/erofs/inode-reader.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { openInodeReader } from '../../../src/erofs/open-inode-reader.js'
import { chunkAddress } from '../../../src/erofs/v5/address.js'
import { entriesOf, readerDifferences, type AddressOf } from '../../helpers/inode-reader.js'
import { directory, regular } from '../../helpers/made-tree.js'
import { fixturesDirectory, rafsImages } from '../../helpers/rafs-fixtures.js'
import { buildImage, type TestNode } from '../../helpers/rafs-image.js'

const KIND = {
  chunkSize: 4096,
  compressor: 'none',
  digester: 'sha256',
  explicitOwners: true,
  prefetch: [],
} as const

const addressV6: AddressOf = chunk => chunk.uncompressedOffset

const addressV5: AddressOf = chunk => chunkAddress(chunk.uncompressedOffset, chunk.index)

const fixtures = fixturesDirectory()
if (fixtures === undefined) {
  t.pass('no images of the reference tools at hand', { skip: 'fixtures are not part of the source tree' })
} else {
  for (const { name, bootstrap } of [...rafsImages(fixtures, 'v6'), ...rafsImages(fixtures, 'v5')]) {
    t.test(name, async t => {
      const fd = openSync(bootstrap, 'r')
      t.teardown(() => closeSync(fd))
      const source = new FileSource(fd)
      const reader = openInodeReader(source)
      const image = loadImage(source)
      t.same(readerDifferences(reader, image, image.version === 5 ? addressV5 : addressV6), [])
      t.same(reader.prefetchInos().length, image.prefetch.length)
    })
  }
}

const file = (name: string, size: number): TestNode => ({
  name,
  mode: 0o100644,
  data: Buffer.alloc(size, name),
})
const dir = (name: string, children: TestNode[]): TestNode => ({ name, mode: 0o40755, children })

t.test('forms that the reference tools do not write any more', async t => {
  const image = buildImage([
    dir('empty', []),
    dir('sub', [dir('!below', [file('deep', 20_000)])]),
    file('!first', 1),
    { name: 'long-link', mode: 0o120777, target: 'x/'.repeat(3000) },
    { name: 'chr', mode: 0o20600, rdev: (70000 & 0xff) | (240 << 8) | ((70000 & 0xfff00) << 12) },
    { name: 'fifo', mode: 0o10600 },
    { name: 'compact', mode: 0o100600, data: Buffer.alloc(100, 7), compact: true, uid: 7, gid: 8 },
    { name: 'odd-\xff', mode: 0o100600, data: Buffer.alloc(1) },
    { ...file('attributed', 10), xattrs: [{ index: 2, suffix: '', value: 'acl' }] },
  ])
  const flags = RAFS_SUPERBLOCK_OFFSET + RAFS_SB_OFF.flags
  image.bootstrap.writeUInt32LE(image.bootstrap.readUInt32LE(flags) | RAFS_FLAGS.hasXattr, flags)
  const source = new MemorySource(image.bootstrap)
  const reader = openInodeReader(source)
  t.same(readerDifferences(reader, loadImage(source), addressV6), [])
})

t.test('an entry without a type has that of its inode', async t => {
  const { bootstrap, nids, metaOffset } = buildImage([file('a', 1), dir('b', [])])
  const root = metaOffset + nids.get('')! * 32
  for (let at = root + 64; bootstrap.readUInt16LE(at + 8) !== 0 && at < root + 64 + 48; at += 12)
    bootstrap[at + 10] = 0
  const reader = openInodeReader(new MemorySource(bootstrap))
  t.same(
    entriesOf(reader, reader.rootIno).map(({ name, type }) => [name, type]),
    [
      ['a', 'regular'],
      ['b', 'directory'],
    ],
  )
})

t.test('a call for another type of inode', async t => {
  const { bootstrap, nids } = buildImage([file('file', 1), dir('dir', [])])
  const reader = openInodeReader(new MemorySource(bootstrap))
  const [aFile = 0, aDirectory = 0] = [nids.get('file'), nids.get('dir')]
  const wrong: [string, () => unknown][] = [
    ['lookup', () => reader.lookup(aFile, Buffer.from('x'))],
    ['parentOf', () => reader.parentOf(aFile)],
    ['readDirectory', () => reader.readDirectory(aFile, 0, () => true)],
    ['readLink', () => reader.readLink(aFile)],
    ['extents', () => reader.extents(aDirectory, 0, 1)],
  ]
  for (const [name, call] of wrong) t.throws(call, { code: 'INODE_TYPE' }, name)
  t.throws(() => reader.attributes(2 ** 40), { code: 'RAFS_TRUNCATED' })
})

for (const version of [5, 6] as const) {
  t.test(`a directory of 100,000 entries, v${version}`, async t => {
    const names = Array.from({ length: 100_000 }, (_, i) => `entry-${(i * 2_654_435_761) % 2 ** 32}`)
    const root = directory({ many: directory(Object.fromEntries(names.map(name => [name, regular()]))) })
    const { bytes } = encodeImage({ ...KIND, version, root })
    checkLarge(t, openInodeReader(new MemorySource(bytes)), names)
  })
}

/** The directory `many` in the root holds these names, in every way of reading it. */
function checkLarge(t: Test, reader: InodeReader, names: string[]): void {
  const many = reader.lookup(reader.rootIno, Buffer.from('many')) ?? 0
  const entries = entriesOf(reader, many)
  t.equal(entries.map(({ name }) => name).join(), [...names].sort().join())
  const wrong = entries.filter(({ name, ino }) => reader.lookup(many, Buffer.from(name)) !== ino)
  t.same(wrong, [])
  t.equal(reader.lookup(many, Buffer.from('entry-')), undefined)
  // Resumed after some entries, and read by the piece, as a kernel does with its buffer.
  for (let i = 0; i < entries.length; i += 33_333)
    t.same(entriesOf(reader, many, entries[i]?.next).slice(0, 20), entries.slice(i + 1, i + 21))
  const pieces: string[] = []
  for (let from = 0, before = -1; from !== before;) {
    before = from
    let room = 77
    reader.readDirectory(many, from, (bytes, start, end, _ino, _type, next) => {
      if (room-- === 0) return false
      pieces.push(Buffer.from(bytes.subarray(start, end)).toString('latin1'))
      from = next
      return true
    })
  }
  t.equal(pieces.length, entries.length)
  t.ok(pieces.every((name, i) => name === entries[i]?.name))
}
