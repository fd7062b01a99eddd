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
    checked.blobs.map(({ blobId }) => blobId),
    [image.blobId],
  )
})

t.test('damage anywhere in the tree is found, and named', async t => {
  const broken = (damage: (bytes: Buffer) => void): MemorySource => {
    const bytes = Buffer.from(image.bootstrap)
    damage(bytes)
    return new MemorySource(bytes)
  }
  const inode = (path: string): number => image.metaOffset + (image.nids.get(path) ?? 0) * 32
  t.throws(() => checkBootstrap(broken(bytes => bytes.fill(0, 1024, 1028))), { code: 'RAFS_NOT_RAFS' })
  // The file's second chunk index points to no device: only a walk over the chunks sees it.
  t.throws(() => checkBootstrap(broken(bytes => bytes.writeUInt16LE(9, inode('a') + 64 + 8 + 2))), {
    code: 'RAFS_FIELD',
  })
  t.throws(() => checkBootstrap(broken(bytes => bytes.writeUInt16LE(0o170000, inode('d/b') + 4))), {
    code: /RAFS_/,
  })
  t.throws(() => checkBootstrap(new MemorySource(image.bootstrap.subarray(0, 4096))), { code: /RAFS_/ })
})
