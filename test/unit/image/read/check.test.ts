import t from 'tap'
import { MemorySource } from '../../../../src/common/byte-source.js'
import { checkBootstrap } from '../../../../src/image/read/check.js'
import { buildImage } from '../../../helpers/rafs-image.js'

const data = Buffer.alloc(10_000, 7)
const image = buildImage([
  { name: 'a', mode: 0o100644, data },
  { name: 'd', mode: 0o40755, children: [{ name: 'b', mode: 0o100644, data: Buffer.alloc(4096, 8) }] },
  { name: 'link', mode: 0o120777, target: 'd/b' },
])

t.test('a sound bootstrap', async t => {
  const checked = checkBootstrap(new MemorySource(image.bootstrap))
  t.match(checked, { names: 5, fileBytes: 14_096, chunks: 4, compressor: 'zstd' })
  t.same(
    checked.blobs.map(({ entry: { blobId } }) => blobId),
    [image.blobId],
  )
})

const broken = (damage: (bytes: Buffer) => void): MemorySource => {
  const bytes = Buffer.from(image.bootstrap)
  damage(bytes)
  return new MemorySource(bytes)
}
const inode = (path: string): number => image.metaOffset + (image.nids.get(path) ?? 0) * 32

t.test('damage anywhere is found, and its part named', async t => {
  const cases: [string, string, (bytes: Buffer) => void][] = [
    ['a feature nobody has', 'superblock', bytes => bytes.writeUInt8(9, 1024 + 13)],
    ['the count of names', 'superblock', bytes => bytes.writeUInt8(9, 1024 + 16)],
    ['the blocks of the devices', 'superblock', bytes => bytes.writeUInt8(9, 1024 + 36)],
    ['a device that is not the blob', 'device table', bytes => bytes.write('0', 1408)],
    ['a blob with another place', 'blob table', bytes => bytes.writeUInt32LE(7, 4096 + 64)],
    ['no link', 'inode', bytes => bytes.writeUInt32LE(0, inode('a') + 44)],
    ['a link too many', 'inode', bytes => bytes.writeUInt32LE(2, inode('a') + 44)],
    ['a directory with a link too many', 'inode', bytes => bytes.writeUInt32LE(3, inode('d') + 44)],
    ['nanoseconds', 'inode', bytes => bytes.writeUInt32LE(1e9, inode('a') + 40)],
    ['no type', 'inode', bytes => bytes.writeUInt16LE(0o170000, inode('d/b') + 4)],
    ['another type than the entry has', 'dirent', bytes => bytes.writeUInt16LE(0o040755, inode('link') + 4)],
    ['chunks of another size for the kernel', 'inode', bytes => bytes.writeUInt32LE(0x21, inode('a') + 16)],
    ['no such device', 'chunk index', bytes => bytes.writeUInt16LE(9, inode('a') + 64 + 8 + 2)],
    ['another address', 'chunk index', bytes => bytes.writeUInt32LE(1, inode('a') + 64 + 4)],
    ['another chunk', 'chunk index', bytes => bytes.writeUInt16LE(2, inode('a') + 64)],
    ['a size too large', 'chunk table', bytes => bytes.writeUInt32LE(5000, image.chunkTable + 44)],
    ['a flag nobody knows', 'chunk table', bytes => bytes.writeUInt32LE(0x80, image.chunkTable + 36)],
    ['an entry out of order', 'dirent', bytes => bytes.write('z', inode('') + 64 + firstName())],
    ['an entry that leads nowhere', 'dirent', bytes => bytes.writeUInt32LE(0xffffff, inode('') + 64 + 24)],
    ['a NUL in a target', 'inode', bytes => bytes.writeUInt8(0, inode('link') + 64)],
  ]
  for (const [name, part, damage] of cases) t.throws(() => checkBootstrap(broken(damage)), inPart(part), name)
  t.throws(() => checkBootstrap(broken(bytes => bytes.fill(0, 1024, 1028))), { code: 'RAFS_NOT_RAFS' })
  t.throws(() => checkBootstrap(new MemorySource(image.bootstrap.subarray(0, 4096))), { code: /RAFS_/ })
})

const inPart = (part: string): { code: RegExp; context: object } => ({
  code: /RAFS_FIELD/,
  context: { part },
})

/** Of the root's names, in its data. */
function firstName(): number {
  return image.bootstrap.readUInt16LE(inode('') + 64 + 8)
}

t.test('a prefetch table that lists what is not there is only odd', async t => {
  const odd = buildImage([{ name: 'a', mode: 0o100644, data: Buffer.from('a') }], { prefetch: [128, 9999] })
  t.match(checkBootstrap(new MemorySource(odd.bootstrap)).warnings, [/lists inode 9999/])
})
