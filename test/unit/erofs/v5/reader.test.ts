import t from 'tap'
import { MemorySource } from '../../../../src/common/byte-source.js'
import type { RafsImage } from '../../../../src/erofs/image-tree.js'
import { loadImageV5 } from '../../../../src/erofs/v5/reader.js'
import { encodeBootstrapV5 } from '../../../../src/erofs/v5/writer.js'
import { walkTree } from '../../../helpers/image-tree.js'
import { patched } from '../../../helpers/patch.js'
import { SAMPLE_CHUNK_SIZE, sampleTree } from '../../../helpers/sample-tree.js'

const OPTIONS = { chunkSize: SAMPLE_CHUNK_SIZE, compressor: 'none', digester: 'blake3' } as const
const { root, shared } = sampleTree()
const { bytes } = encodeBootstrapV5(root, { ...OPTIONS, prefetch: [shared] })

/** Absolute offset of the inode with that index. */
const inode = (index: number): number => bytes.readUInt32LE(8192 + (index - 1) * 4) * 8
const names = bytes.readUInt32LE(56)
const indexOf = (name: string): number => {
  for (let index = 1; index <= names; index++) {
    const at = inode(index)
    if (bytes.toString('latin1', at + 128, at + 128 + bytes.readUInt16LE(at + 100)) === name) return index
  }
  throw new Error(name)
}
const at = (name: string, field: number): number => inode(indexOf(name)) + field
const chunkAt = (name: string, field: number): number =>
  at(name, 128 + 8 * Math.ceil(name.length / 8) + field)
const blobTable = bytes.readUInt32LE(48)
const extended = bytes.readUInt32LE(72)

const damages: [string, number, 1 | 2 | 4 | 8, number | bigint, string][] = [
  ['superblock size', 8, 4, 4096, 'sb_size'],
  ['chunk size', 12, 4, 5000, 'block_size'],
  ['two compressors', 16, 4, 0x17, 'flags'],
  ['an unknown flag', 16, 4, 0x10015, 'RAFS features'],
  ['inode count', 24, 8, 1, 'inodes_count'],
  ['inode table beyond the file', 32, 8, 1n << 40n, 'inode_table_offset'],
  ['inode table not aligned', 32, 8, 8194, 'inode_table_offset'],
  ['tables that overlap', 40, 8, 8192, 'prefetch_table_offset'],
  ['no inodes', 56, 4, 0, 'inode_table_entries'],
  ['one inode too many', 56, 4, names + 1, `entry ${names + 1}`],
  ['more inodes than the file holds', 56, 4, 0xffffffff, 'inode_table_offset'],
  ['blob table size', 64, 4, 72, 'entries'],
  ['extended blob table entries', 68, 4, 1, 'entries'],
  ['blob id', blobTable + 8, 1, 0x58, 'blob_id'],
  ['chunk count of a blob', extended, 4, 1, 'index'],
  ['uncompressed size of a blob', extended + 8, 8, 4096, 'uncompressed_offset'],
  ['compressed size of a blob', extended + 16, 8, 4096, 'compressed_offset'],
  ['inode in the superblock', 8192 + 4, 4, 100, 'entry 2'],
  ['inode beyond the file', 8192 + 4, 4, 0x10000000, 'entry 2'],
  ['two names at one inode', 8192 + 4, 4, inode(3) / 8, 'i_ino'],
  ['parent', at('dir', 32), 8, 2, 'i_parent'],
  ['parent of the root', inode(1) + 32, 8, 1, 'i_parent'],
  ['number', at('fifo', 40), 8, 2, 'i_ino'],
  ['file type', at('fifo', 60), 4, 0o070000, 'i_mode'],
  ['a root that is a file', inode(1) + 60, 4, 0o100755, 'i_child_count'],
  ['size of a file', at('with', 64), 8, 9000, 'i_child_count'],
  ['size of a file by less than a chunk', at('with', 64), 8, 11, 'uncompressed_size'],
  ['size of a fifo', at('fifo', 64), 8, 1, 'i_size'],
  ['size of a link', at('link', 64), 8, 3, 'i_symlink_size'],
  ['unknown inode flag', at('fifo', 80), 8, 16, 'i_flags'],
  ['a link that is none', at('link', 80), 8, 0, 'i_flags'],
  ['no names', at('fifo', 88), 4, 0, 'i_nlink'],
  ['children of the root', inode(1) + 92, 4, 1, 'i_child_index'],
  ['children beyond the table', at('dir', 96), 4, 0xfffffff0, 'i_child_index'],
  ['children that belong to another', at('dir', 92), 4, 3, 'entry 3'],
  ['a fifo with children', at('fifo', 96), 4, 1, 'i_child_count'],
  ['a nameless file', at('fifo', 100), 2, 0, 'i_name_size'],
  ['name', at('fifo', 128), 1, 0x2f, 'name'],
  ['order of names', at('fifo', 128), 1, 0x61, 'name'],
  ['nanoseconds', at('fifo', 108), 4, 1_000_000_000, 'i_mtime_nsec'],
  ['seconds', at('fifo', 112), 8, 1n << 60n, 'i_mtime'],
  ['size of the attributes', at('with', 136), 8, 1n << 33n, 'extended attributes'],
  ['length of an attribute', at('with', 144), 4, 1000, 'pair length'],
  ['attribute without a name', at('with', 148), 1, 0, 'name'],
  ['digest of a chunk in one of two files', at('again', 136), 1, 0, 'digest'],
  ['blob of a chunk', chunkAt('shared', 32), 4, 2, 'blob_index'],
  ['unknown chunk flag', chunkAt('shared', 36), 4, 32, 'flags'],
  ['a hole', chunkAt('shared', 36), 4, 2, 'flags'],
  ['a checksum that is missing', chunkAt('shared', 36), 4, 16, 'crc32'],
  ['a raw chunk of another size', chunkAt('shared', 40), 4, 100, 'compressed_size'],
  ['a compressed chunk that is larger', chunkAt('shared', 36), 4, 1, 'compressed_size'],
  ['uncompressed size of a chunk', chunkAt('shared', 44), 4, 100, 'uncompressed_size'],
  ['a chunk beyond the stored blob', chunkAt('shared', 48), 8, 1 << 20, 'compressed_offset'],
  ['a chunk beyond the blob', chunkAt('shared', 56), 8, 1 << 20, 'uncompressed_offset'],
  ['place of a chunk in its file', chunkAt('shared', 64), 8, 1, 'file_offset'],
  ['number of a chunk', chunkAt('shared', 72), 4, 100, 'index'],
  ['owner of one of two names', at('again', 48), 4, 9, 'uid'],
]

t.test('damaged fields are named', async t => {
  for (const [what, offset, width, value, field] of damages) {
    const damaged = new MemorySource(patched(bytes, offset, width, value))
    t.throws(
      () => loadImageV5(damaged),
      { name: 'Fault', code: /^RAFS_/, context: { field: new RegExp(field) } },
      `${what} is ${field}`,
    )
  }
})

t.test('inode digests', async t => {
  const root = patched(bytes, inode(1), 4, 0xdeadbeef)
  t.ok(loadImageV5(new MemorySource(root)))
  for (const name of ['fifo', 'link', 'dir', 'shared', 'null', 'sock'])
    for (const damaged of [root, patched(bytes, at(name, 31), 1, bytes.readUInt8(at(name, 31)) ^ 1)])
      t.throws(() => loadImageV5(new MemorySource(damaged), { verifyDigests: true }), {
        code: 'RAFS_FIELD',
        context: { field: 'i_digest' },
      })
})

t.test('images of older builders have no extended blob table', async t => {
  const old = patched(patched(bytes, 68, 4, 0), 72, 8, 0)
  const image = loadImageV5(new MemorySource(old), { verifyDigests: true })
  const digests = ({ root }: RafsImage): [string, unknown][] =>
    [...walkTree(root)].map(([path, inode]) => [
      path,
      inode.type === 'regular' && inode.chunks.map(({ digest }) => digest),
    ])
  t.same(digests(image), digests(loadImageV5(new MemorySource(bytes))))
  t.same(
    image.blobs.map(({ chunkCount, compressedSize }) => [chunkCount, compressedSize]),
    [
      [5, 10_000 + 10 + 4096],
      [2, 5000],
    ],
  )
})

t.test('prefetch hints are advice', async t => {
  const table = bytes.readUInt32LE(40)
  t.same(loadImageV5(new MemorySource(patched(bytes, table, 4, 9999))).prefetch, [])
  t.same(loadImageV5(new MemorySource(patched(bytes, table, 4, 1))).prefetch[0]?.type, 'directory')
})

t.test('files with holes are refused by name', async t => {
  const holes = patched(patched(bytes, at('with', 80), 8, 8 | 4), at('with', 64), 8, 9000)
  t.throws(() => loadImageV5(new MemorySource(holes)), {
    code: 'RAFS_UNSUPPORTED',
    message: /holes.*RAFS v6/,
  })
  const none = patched(bytes, at('with', 80), 8, 8 | 4)
  t.ok(loadImageV5(new MemorySource(none)), 'the flag alone is no hole')
})

t.test('what is no RAFS v5', async t => {
  for (const cut of [0, 7, 100, 8191, bytes.length - 8])
    t.throws(() => loadImageV5(new MemorySource(bytes.subarray(0, cut))), { code: /^RAFS_/ })
  t.throws(() => loadImageV5(new MemorySource(patched(bytes, 4, 4, 0x600))), { code: 'RAFS_NOT_RAFS' })
})

t.test('inodes that share bytes run out of them', async t => {
  // A file that claims to be as big as the bootstrap, and another name with the same record.
  const big = patched(bytes, 8192 + (indexOf('with') - 1) * 4, 4, inode(indexOf('x'.repeat(255))) / 8)
  t.throws(() => loadImageV5(new MemorySource(big)), { code: 'RAFS_FIELD' })
})
