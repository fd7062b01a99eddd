import t from 'tap'
import { RafsLayout } from '../../../src/cache/rafs-layout.js'
import { MemorySource } from '../../../src/common/byte-source.js'
import { parseMetaFile, parseStoredMeta, storedMetaRange } from '../../../src/erofs/blob-meta.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { EXAMPLE_BLOB_ID, exampleBlobMeta, exampleBootstrap } from '../../helpers/worked-example.js'

const bootstrap = Bootstrap.open(new MemorySource(exampleBootstrap()))
const blob = bootstrap.blobs[0]
if (blob === undefined) throw new Error('the example has one blob')

t.test('superblocks, device and blob entry', async t => {
  t.match(bootstrap.superblock, {
    rootNid: 128,
    inos: 3,
    metaOffset: 0x2000,
    chunkSize: 0x100000,
    flags: 0x194,
  })
  t.same(bootstrap.devices, [{ tag: EXAMPLE_BLOB_ID, blocks: 9, mappedBlock: 512 }])
  t.match(blob, {
    blobId: EXAMPLE_BLOB_ID,
    chunkCount: 2,
    compressor: 'zstd',
    digester: 'blake3',
    compressedSize: 14554,
    uncompressedSize: 36864,
    tocSize: 1024,
    ciCompressor: 'none',
    ciOffset: 8314,
    ciCompressedSize: 32,
  })
  t.equal(
    Buffer.from(blob.tocDigest).toString('hex'),
    'cfc89ed0739aef4eb1bf0904f0dfdb1c857134eca7319465baae95a99b84acde',
  )
})

t.test('the tree', async t => {
  const seen = [...bootstrap.walk()].map(entry => [
    Buffer.from(entry.path()).toString(),
    entry.inode.nid,
    entry.inode.size,
    entry.inode.mode,
    entry.inode.mtime,
    entry.inode.mtimeNsec,
    [...bootstrap.fileChunks(entry.inode)].map(chunk => [
      chunk.blobIndex,
      chunk.chunkIndex,
      chunk.uncompressedOffset,
    ]),
  ])
  t.same(seen, [
    ['', 128, 67, 0o40755, 0, 0, []],
    ['lib.rs', 133, 16931, 0o100644, 1676819553, 628661334, [[0, 0, 0]]],
    ['sync_io.rs', 136, 13400, 0o100644, 1676819553, 628993084, [[0, 1, 20480]]],
  ])
})

t.test('chunk infos and digests', async t => {
  t.same(storedMetaRange(blob), { offset: 8314, length: 4128 })
  const layout = new RafsLayout(blob, parseStoredMeta(blob, exampleBlobMeta()), bootstrap.chunkDigests(0), {
    validate: true,
  })
  t.same(
    [0, 1].map(chunk => [layout.chunkRange(chunk), layout.extentOf(chunk)]),
    [
      [
        { offset: 0, length: 16931 },
        { storedOffset: 0, storedLength: 4828, firstChunk: 0, chunkCount: 1 },
      ],
      [
        { offset: 20480, length: 13400 },
        { storedOffset: 4828, storedLength: 2974, firstChunk: 1, chunkCount: 1 },
      ],
    ],
  )
  const digests = [0, 1].map(chunk =>
    Buffer.from(bootstrap.chunkDigests(0)?.digest(chunk) ?? []).toString('hex'),
  )
  t.match(digests[0], /^f7e2735f1c6ae9cd/)
  t.match(digests[1], /^812465bcc9e88393/)
})

t.test('the same metadata as a file of its own', async t => {
  const stored = exampleBlobMeta()
  const file = Buffer.concat([stored.subarray(0, 32), Buffer.alloc(4096 - 32), stored.subarray(32)])
  t.equal(parseMetaFile(blob, file).chunks.compressedOffset(1), 4828)
})
