import t from 'tap'
import { MemorySource } from '../../../../src/common/byte-source.js'
import type { ImageInode } from '../../../../src/erofs/image-tree.js'
import { loadImage } from '../../../../src/erofs/load-image.js'
import { addImage, newStat, statDocument } from '../../../../src/image/read/image-stat.js'
import { Inspector } from '../../../../src/image/read/inspect.js'
import { buildImage } from '../../../helpers/rafs-image.js'

const data = Buffer.alloc(9000, 'abc')
const built = buildImage(
  [
    { name: 'a', mode: 0o100644, data, xattrs: [{ index: 1, suffix: 'k', value: 'v' }] },
    { name: 'd', mode: 0o40755, children: [{ name: 'b', mode: 0o100600, data: Buffer.from('b') }] },
    { name: 'link', mode: 0o120777, target: 'd/b' },
  ],
  { prefetch: [129 + 2] },
)
const open = (): Inspector => {
  const numbers = new Map<number, ImageInode>()
  const image = loadImage(new MemorySource(built.bootstrap), { numbers })
  return new Inspector(image, numbers)
}
const nid = (path: string): number => built.nids.get(path) ?? 0

t.test('each question has its answer, as a text or under the names of upstream', async t => {
  const inspector = open()
  t.same(inspector.answer('stats')?.json, { inodes_count: 5 })
  t.equal(
    inspector.answer('ls')?.text,
    `- ${String(nid('a')).padEnd(10)} a\nd ${String(nid('d')).padEnd(10)} d\nl ${String(nid('link')).padEnd(10)} link\n`,
  )
  t.same(inspector.answer('blobs')?.json, [
    {
      blob_id: built.blobId,
      readahead_offset: 0,
      readahead_size: 0,
      decompressed_size: 4 * 4096,
      compressed_size: built.bootstrap.readUInt32LE(4096 + 88),
    },
  ])
  t.match(inspector.answer('stat a')?.text, /mode +0644[^]*size +9000[^]*piece 2[^]*user.k="v"/)
  t.match(inspector.answer('stat link')?.text, /target +d\/b/)
  t.equal(inspector.answer(`icheck ${nid('d/b')}`)?.text, '/d/b\n')
  t.match(inspector.answer('chunk 0')?.text, /^\/a\n {2}piece 0: chunk 0 /)
  t.equal(inspector.answer('chunk 999999')?.text, '')
  t.equal(inspector.answer('ls')?.json, null)
  t.match(inspector.answer('help')?.text, /icheck INODE/)
  t.equal(inspector.answer('q'), undefined)
})

t.test('the current directory', async t => {
  const inspector = open()
  inspector.answer('cd d')
  t.match(inspector.answer('ls')?.text, / b\n$/)
  inspector.answer('cd ../../d/.')
  t.match(inspector.answer('ls')?.text, / b\n$/)
  inspector.answer('cd /')
  t.match(inspector.answer('ls')?.text, / a\n/)
})

t.test('wrong questions are refused', async t => {
  const inspector = open()
  for (const line of [
    '',
    'nosuch',
    'cd',
    'cd a',
    'cd nosuch',
    'stat nosuch',
    'icheck x',
    'icheck',
    'chunk -1',
  ])
    t.throws(() => inspector.answer(line), { code: 'REQUEST_INVALID' }, line)
})

t.test('prefetch lists paths', async t => {
  const image = buildImage([{ name: 'a', mode: 0o100644, data }], { prefetch: [built.nids.get('') ?? 0] })
  const numbers = new Map<number, ImageInode>()
  const inspector = new Inspector(loadImage(new MemorySource(image.bootstrap), { numbers }), numbers)
  t.same(inspector.answer('prefetch')?.json, [{ inode: image.nids.get(''), path: '/' }])
})

t.test('counts of an image, alone and against another', async t => {
  const image = loadImage(new MemorySource(built.bootstrap))
  const base = newStat()
  const seen = new Set<string>()
  addImage(base, image, new Set(), seen)
  // 'abc' does not divide 4096: the pieces of the file differ.
  const alone = statDocument(base)
  t.match(alone, { dirs: 2, files: 2, symlinks: 1, chunks: 4, file_size: 9001, uncomp_size: 9001 })
  t.match(alone, { padding_size: 4 * 4096 - 9001, dedup_chunks: 4, own_chunks: 4, ref_chunks: 0 })
  t.same(alone['chunk_sizes'], [4, 0, 0, 0, 0, 0, 0, 0, 0])
  t.equal((alone['file_sizes'] as number[])[14], 1)
  t.equal((alone['file_sizes'] as number[]).length, 45)
  const target = newStat()
  addImage(target, image, seen, new Set())
  t.match(statDocument(target), {
    chunks: 4,
    dedup_chunks: 4,
    own_chunks: 0,
    ref_chunks: 4,
    ref_uncomp_size: 9001,
  })
})
