import t from 'tap'
import { MemorySource } from '../../../../src/common/byte-source.js'
import type {
  DirectoryInode,
  ImageChunk,
  ImageInode,
  RegularInode,
} from '../../../../src/erofs/image-tree.js'
import { loadImageV5 } from '../../../../src/erofs/v5/reader.js'
import { encodeBootstrapV5 } from '../../../../src/erofs/v5/writer.js'
import { describeTree } from '../../../helpers/made-tree.js'
import {
  SAMPLE_CHUNK_SIZE,
  sampleBlob,
  sampleDirectory,
  sampleFile,
  sampleTree,
} from '../../../helpers/sample-tree.js'

const OPTIONS = { chunkSize: SAMPLE_CHUNK_SIZE, compressor: 'none', digester: 'blake3' } as const

for (const digester of ['blake3', 'sha256'] as const) {
  t.test(`what is written is what a reader finds: ${digester}`, async t => {
    const { root, shared } = sampleTree(digester)
    const options = { ...OPTIONS, digester, prefetch: [shared, root] }
    const { bytes, blobs } = encodeBootstrapV5(root, options)
    const image = loadImageV5(new MemorySource(bytes), { verifyDigests: true })
    t.same(describeTree(image.root), describeTree(root))
    t.same(image.blobs, blobs)
    t.match(image, { version: 5, ...OPTIONS, digester, explicitOwners: true })
    const again = image.root.children.get('dir') as DirectoryInode
    t.equal(again.children.get('again'), image.root.children.get('shared'), 'a hard link is one object')
    t.equal(image.prefetch.length, 2)
    t.equal(image.prefetch[0], image.root.children.get('shared'))
    t.equal(image.prefetch[1], image.root)
    t.ok(encodeBootstrapV5(image.root, { ...options, prefetch: image.prefetch }).bytes.equals(bytes))
  })
}

t.test('blobs come in order of first reference, children before grandchildren', async t => {
  const late = sampleBlob('a')
  const early = sampleBlob('b')
  const root = sampleDirectory({
    dir: sampleDirectory({ file: sampleFile(late, Buffer.from('late')) }),
    file: sampleFile(early, Buffer.from('early')),
  })
  t.same(encodeBootstrapV5(root, OPTIONS).blobs, [early, late])
})

t.test('an image without data', async t => {
  const root = sampleDirectory({})
  const { bytes, blobs } = encodeBootstrapV5(root, { ...OPTIONS, explicitOwners: false })
  t.same(blobs, [])
  const image = loadImageV5(new MemorySource(bytes), { verifyDigests: true })
  t.same(image.root, root)
  t.equal(image.explicitOwners, false)
})

t.test('compressed chunks and checksums', async t => {
  const blob = { ...sampleBlob('c'), compressor: 'zstd' as const }
  const file = sampleFile(blob, Buffer.alloc(4096, 7))
  Object.assign(file.chunks[0] as object, { compressedSize: 17, crc32: 0xfedcba98 })
  const options = { ...OPTIONS, compressor: 'zstd' as const }
  const { bytes } = encodeBootstrapV5(sampleDirectory({ file }), options)
  const loaded = loadImageV5(new MemorySource(bytes)).root.children.get('file')
  t.match((loaded as RegularInode).chunks[0], {
    compressedSize: 17,
    uncompressedSize: 4096,
    crc32: 0xfedcba98,
  })
})

t.test('a tree that is deep, and a directory that is wide', async t => {
  let root = sampleDirectory({})
  for (let depth = 0; depth < 2000; depth++) root = sampleDirectory({ d: root })
  const names: [string, ImageInode][] = Array.from({ length: 20_000 }, (_, i) => [
    `entry-${String(i).padStart(5, '0')}`,
    { type: 'fifo', mode: 0o600, uid: 0, gid: 0, mtimeSec: i, mtimeNsec: 0 },
  ])
  root.children.set('wide', sampleDirectory(Object.fromEntries(names)))
  const image = loadImageV5(new MemorySource(encodeBootstrapV5(root, OPTIONS).bytes), { verifyDigests: true })
  t.equal((image.root.children.get('wide') as DirectoryInode).children.size, 20_000)
  let depth = 0
  for (let next: ImageInode | undefined = image.root; next?.type === 'directory'; depth++)
    next = next.children.get('d')
  t.equal(depth, 2001)
})

t.test('what the format has no place for', async t => {
  const refused = (root: DirectoryInode, message: RegExp): void =>
    void t.throws(() => encodeBootstrapV5(root, OPTIONS), { code: 'IMAGE_INVALID', message })
  const fifo = { type: 'fifo', mode: 0, uid: 0, gid: 0, mtimeSec: 0, mtimeNsec: 0 } as const
  refused(sampleDirectory({ ['n'.repeat(256)]: fifo }), /file name has 256 bytes/)
  const link = { ...fifo, type: 'symlink', target: Buffer.alloc(65536, 'x') } as const
  refused(sampleDirectory({ link }), /target of link has 65536 bytes/)
  const batch = { index: 0, compressedSize: 10, uncompressedSize: 10 }
  const batched = sampleFile(sampleBlob('d'), Buffer.from('batched'))
  ;(batched.chunks[0] as ImageChunk).batch = { batch, offset: 0 }
  refused(sampleDirectory({ batched }), /no place for the batches of blob d{64}/)
  const cipher = { key: new Uint8Array(32), iv: new Uint8Array(16) }
  const secret = sampleFile({ ...sampleBlob('e'), cipher }, Buffer.from('secret'))
  refused(sampleDirectory({ secret }), /no place for the encryption of blob e{64}/)
})
