import t from 'tap'
import type { FileExtent, InodeReader } from '../../../src/erofs/inode-reader.js'
import { RecentExtents } from '../../../src/fuse/recent-extents.js'

const MIB = 2 ** 20

/** Files of 10 MiB, whose every MiB lies elsewhere; the second of inode 7 is a hole. */
function fileReader(): { reader: InodeReader; asked: [number, number, number][] } {
  const asked: [number, number, number][] = []
  const extents = (ino: number, offset: number, length: number): FileExtent[] => {
    asked.push([ino, offset, length])
    const found: FileExtent[] = []
    const end = Math.min(offset + length, 10 * MIB)
    for (let at = offset, next = 0; at < end; at = next) {
      const piece = Math.floor(at / MIB)
      next = Math.min((piece + 1) * MIB, end)
      const blobIndex = ino === 7 && piece === 1 ? undefined : ino
      found.push({ fileOffset: at, length: next - at, blobIndex, offset: at - piece * MIB + piece * 9 * MIB })
    }
    return found
  }
  return { reader: { extents } as Partial<InodeReader> as InodeReader, asked }
}

t.test('what the reader says, asked once for each window', async t => {
  const { reader, asked } = fileReader()
  const recent = new RecentExtents()
  const ranges = [
    [0, 4096],
    [MIB - 10, 20],
    [MIB, MIB],
    [4 * MIB - 1, 1],
    [9 * MIB + 5, 3 * MIB],
    [10 * MIB, 4096],
    [0, 4 * MIB],
    [5, 0],
  ] as const
  for (const [offset, length] of ranges)
    t.same(recent.find(reader, 1, 7, offset, length), fileReader().reader.extents(7, offset, length))
  t.equal(asked.length, 3, 'two windows, and what reaches beyond one')
})

t.test('images and inodes that meet in one place, and what is forgotten', async t => {
  const { reader, asked } = fileReader()
  const recent = new RecentExtents()
  for (const [sequence, ino] of [
    [1, 7],
    [2, 7],
    [2, 7 + 256],
    [2, 7 + 2 ** 32],
    [1, 7],
  ] as const) {
    const [found] = recent.find(reader, sequence, ino, 100, 1)
    t.same(found, { fileOffset: 100, length: 1, blobIndex: ino, offset: 100 })
  }
  t.equal(asked.length, 5)
  recent.find(reader, 1, 7, 200, 1)
  t.equal(asked.length, 5)
  recent.clear()
  recent.find(reader, 1, 7, 200, 1)
  t.equal(asked.length, 6)
})

t.test('of a file in too many pieces no more is asked for than is read', async t => {
  const asked: number[] = []
  const extents = (_ino: number, offset: number, length: number): FileExtent[] => {
    asked.push(length)
    return Array.from({ length: length / 4096 }, (_, i) => {
      const fileOffset = offset + i * 4096
      return { fileOffset, length: 4096, blobIndex: 0, offset: fileOffset * 2 }
    })
  }
  const reader = { extents } as Partial<InodeReader> as InodeReader
  const recent = new RecentExtents()
  for (let i = 0; i < 3; i++)
    t.same(recent.find(reader, 1, 1, 8192, 4096), [
      { fileOffset: 8192, length: 4096, blobIndex: 0, offset: 16384 },
    ])
  t.same(asked, [4 * MIB, 4096, 4096])
})
