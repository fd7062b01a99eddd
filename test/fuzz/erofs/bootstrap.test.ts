import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { fuzz, mutate, mutations, onlyFaults } from '../../helpers/fuzz.js'
import { BLOB_TABLE, buildImage, type TestNode } from '../../helpers/rafs-image.js'

const file = (name: string, size: number): TestNode => ({
  name,
  mode: 0o100644,
  data: Buffer.alloc(size, name),
})
const dir = (name: string, children: TestNode[]): TestNode => ({ name, mode: 0o40755, children })

const image = buildImage(
  [
    dir(
      'big',
      Array.from({ length: 260 }, (_, i) => file(`entry-${i}`, i % 2)),
    ),
    dir('a', [dir('b', [dir('c', [file('deep', 30000)])])]),
    { name: 'link', mode: 0o120777, target: 'a/b' },
    { name: 'long-link', mode: 0o120777, target: 'y/'.repeat(2500) },
    { name: 'device', mode: 0o20600, rdev: 259 },
    { ...file('attributes', 5000), xattrs: [{ index: 1, suffix: 'name', value: 'value' }] },
    { ...file('compact', 100), compact: true },
  ],
  { prefetch: [128, 130] },
)
const { bootstrap } = image
const paths = [...image.nids.keys()]

/** Does all that the product ever does with a bootstrap. */
function readAll(bytes: Uint8Array): void {
  const opened = Bootstrap.open(new MemorySource(bytes))
  opened.prefetchNids()
  for (const entry of opened.walk()) {
    opened.xattrs(entry.inode)
    if (entry.inode.type === 'symlink') opened.readLink(entry.inode)
    for (const chunk of opened.fileChunks(entry.inode))
      if (chunk.length < 1 || chunk.fileOffset + chunk.length > entry.inode.size)
        throw new Error('chunk outside')
  }
  for (const [index] of opened.blobs.entries()) opened.chunkDigests(index)?.digest(0)
}

// Where the structures are: each field of the superblocks and the first tables, each inode and what follows it.
const hot: number[] = []
for (let at = 1024; at < 1408 + 128; at++) hot.push(at)
for (let at = BLOB_TABLE; at < BLOB_TABLE + 264; at++) hot.push(at)
const inodes: number[] = []
for (const nid of image.nids.values())
  for (let at = 0; at < 110; at += 2) inodes.push(image.metaOffset + nid * 32 + at)

t.test('the image itself is read', async () => {
  readAll(bootstrap)
})
t.test('superblocks and tables', async t => {
  const input = mutations(bootstrap.length, hot)
  fuzz(t, input, mutation => onlyFaults(() => readAll(mutate(bootstrap, mutation))), 3000)
})
t.test('inodes, directories, chunk indexes', async t => {
  const input = mutations(bootstrap.length, inodes)
  fuzz(t, input, mutation => onlyFaults(() => readAll(mutate(bootstrap, mutation))), 4000)
})
t.test('lookup', async t => {
  const input = mutations(bootstrap.length, inodes)
  const lookups = (bytes: Uint8Array): void => {
    const opened = Bootstrap.open(new MemorySource(bytes))
    for (const path of paths.slice(0, 30)) onlyFaults(() => opened.lookup(path))
  }
  fuzz(t, input, mutation => onlyFaults(() => lookups(mutate(bootstrap, mutation))), 2000)
})
t.test('the tree of the image tools', async t => {
  const input = mutations(bootstrap.length, [...hot, ...inodes])
  fuzz(t, input, mutation => onlyFaults(() => loadImage(new MemorySource(mutate(bootstrap, mutation)))), 3000)
})
