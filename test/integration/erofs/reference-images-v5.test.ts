import { readFileSync, readdirSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { FileSource, MemorySource } from '../../../src/common/byte-source.js'
import { isFault } from '../../../src/common/fault.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { INODE_OFF } from '../../../src/erofs/v5/format.js'
import { InodeRecord } from '../../../src/erofs/v5/inode.js'
import { loadImageV5 } from '../../../src/erofs/v5/reader.js'
import { encodeBootstrapV5 } from '../../../src/erofs/v5/writer.js'
import { chunkReader, treeDifferences, walkTree } from '../../helpers/image-tree.js'
import { fixturesDirectory, rafsImages, readExpected } from '../../helpers/rafs-fixtures.js'

const fixtures = fixturesDirectory()
if (fixtures === undefined) {
  t.pass('no images of the reference tools at hand', { skip: 'fixtures are not part of the source tree' })
} else {
  const expected = readExpected(fixtures)

  for (const { name, bootstrap, blobs } of rafsImages(fixtures, 'v5')) {
    t.test(name, async t => {
      const source = new FileSource(bootstrap)
      t.teardown(() => source.close())
      // Every inode digest recomputes, and reading each chunk checks its digest.
      const image = loadImageV5(source, { verifyDigests: true })
      const chunks = chunkReader(id => path.join(blobs, id))
      t.teardown(chunks.close)
      t.same(treeDifferences(image, expected, chunks.read), [])
      t.equal([...walkTree(image.root)].length, 1684)
      t.equal(image.version, 5)
      t.equal(loadImage(source).version, 5, 'the reader of either version knows it')
    })

    t.test(`${name}: written again`, async t => {
      const layers = path.join(path.dirname(bootstrap), 'layers')
      for (const file of [bootstrap, ...readdirSync(layers).map(layer => path.join(layers, layer))]) {
        const reference = readFileSync(file)
        const image = loadImageV5(new MemorySource(reference))
        const { bytes } = encodeBootstrapV5(image.root, image)
        t.equal(bytes.length, reference.length)
        const free = freeBytes(reference)
        const differing: number[] = []
        reference.forEach((byte, i) => byte !== bytes[i] && !free.has(i) && differing.push(i))
        t.same(differing, [], `${path.basename(file)} is the reference's, byte for byte`)
      }
    })

    t.test(`${name}: layers`, async t => {
      const layers = path.join(path.dirname(bootstrap), 'layers')
      for (const layer of readdirSync(layers)) {
        const image = loadImageV5(new FileSource(path.join(layers, layer)), { verifyDigests: true })
        const [blob] = image.blobs
        const used = new Set<number>()
        for (const [, inode] of walkTree(image.root))
          if (inode.type === 'regular') for (const chunk of inode.chunks) used.add(chunk.index)
        t.equal(used.size, blob?.chunkCount, `${layer} uses every chunk of its blob`)
      }
    })

    t.test(`${name}: a flipped bit anywhere in what digests cover is seen`, async t => {
      const bytes = readFileSync(bootstrap)
      const view = new DataView(bytes.buffer, bytes.byteOffset)
      const missed: number[] = []
      // The inode table and some of the fields of some inodes.
      for (let index = 1; index <= 1685; index += 97) {
        const inode = view.getUint32(8192 + (index - 1) * 4, true) * 8
        for (const at of [8192 + (index - 1) * 4, inode, inode + 40, inode + 60, inode + 96, inode + 100]) {
          bytes[at] = (bytes[at] ?? 0) ^ 1
          if (!isRefused(bytes)) missed.push(at - inode)
          bytes[at] = (bytes[at] ?? 0) ^ 1
        }
      }
      // The lowest permission bit is covered by nothing.
      t.same([...new Set(missed)], [60])
    })
  }
}

/**
 * Where a bootstrap may differ from the reference's: in the order of extended attributes, which is random there, and in
 * the hard link flag of a file that lost its other names, which the reference keeps.
 */
function freeBytes(reference: Uint8Array): Set<number> {
  const free = new Set<number>()
  const source = new MemorySource(reference)
  const view = new DataView(reference.buffer, reference.byteOffset)
  for (let index = 1; index <= view.getUint32(56, true); index++) {
    const offset = view.getUint32(8192 + (index - 1) * 4, true) * 8
    const record = new InodeRecord(source, offset, index)
    if (record.nlink === 1) free.add(offset + INODE_OFF.flags)
    if (record.xattrs().size > 1) for (let at = offset + 128; at < record.chunksOffset(); at++) free.add(at)
  }
  return free
}

function isRefused(bytes: Uint8Array): boolean {
  try {
    loadImageV5(new MemorySource(bytes), { verifyDigests: true })
    return false
  } catch (err) {
    if (isFault(err) && err.code.startsWith('RAFS_')) return true
    throw err
  }
}
