import t from 'tap'
import { SEEK_DATA, SEEK_HOLE, seekExtent } from '../../../src/fuse/seek.js'
import type { FileExtent, InodeReader } from '../../../src/erofs/inode-reader.js'

const MIB = 1024 * 1024

/** A file of pieces by turns: data first, or a hole. */
function file(lengths: readonly number[], dataFirst: boolean): Pick<InodeReader, 'attributes' | 'extents'> {
  const sizeBytes = lengths.reduce((sum, length) => sum + length, 0)
  const none = { type: 'regular', mode: 0, nlink: 1, uid: 0, gid: 0, major: 0, minor: 0 } as const
  return {
    attributes: () => ({ ...none, sizeBytes, mtimeSec: 0, mtimeNsec: 0 }),
    extents: (_ino, offset, length) => {
      const extents: FileExtent[] = []
      let at = 0
      for (const [i, piece] of lengths.entries()) {
        const start = Math.max(at, offset)
        const end = Math.min(at + piece, offset + length)
        const blobIndex = (i % 2 === 0) === dataFirst ? 0 : undefined
        if (start < end) extents.push({ fileOffset: start, length: end - start, blobIndex, offset: start })
        at += piece
      }
      return extents
    },
  }
}

t.test('data and holes', async t => {
  const f = file([10, 20, 30], true)
  const data = (offset: number) => seekExtent(f, 1, offset, SEEK_DATA)
  const hole = (offset: number) => seekExtent(f, 1, offset, SEEK_HOLE)
  t.same([0, 5, 10, 29, 30, 59].map(data), [0, 5, 30, 30, 30, 59])
  t.same([0, 5, 10, 29, 30, 59].map(hole), [10, 10, 10, 29, 60, 60])
  t.same([data(60), hole(60), data(1e15)], ['ENXIO', 'ENXIO', 'ENXIO'])
  t.equal(seekExtent(f, 1, 0, 2), 'EINVAL')
})

t.test('a hole at the end, and one larger than what is looked at in one step', async t => {
  t.equal(seekExtent(file([10, 10], true), 1, 12, SEEK_DATA), 'ENXIO')
  const large = file([1000 * MIB, 5, 600 * MIB], false)
  t.equal(seekExtent(large, 1, 3, SEEK_DATA), 1000 * MIB)
  t.equal(seekExtent(large, 1, 1000 * MIB, SEEK_HOLE), 1000 * MIB + 5)
  t.equal(seekExtent(large, 1, 1000 * MIB + 5, SEEK_DATA), 'ENXIO')
  t.equal(seekExtent(file([], true), 1, 0, SEEK_HOLE), 'ENXIO')
})
