import t from 'tap'
import type { BlobLayout, Extent } from '../../../src/cache/layout.js'
import { neighbourhoodOf } from '../../../src/cache/neighbourhood.js'

/** Chunks of these stored sizes, one behind the other. */
function layoutOf(sizes: number[]): Pick<BlobLayout, 'chunkCount' | 'extentOf'> {
  const offsets = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, size) => sum + size, 0))
  return {
    chunkCount: sizes.length,
    extentOf: (chunk: number): Extent => ({
      storedOffset: offsets[chunk] ?? 0,
      storedLength: sizes[chunk] ?? 0,
      firstChunk: chunk,
      chunkCount: 1,
    }),
  }
}

const near = (sizes: number[], chunk: number): number[] => {
  const layout = layoutOf(sizes)
  return neighbourhoodOf(layout, layout.extentOf(chunk))
}

t.test('small chunks come with what is stored close to them, on both sides', t => {
  const small = Array.from({ length: 10 }, () => 300)
  t.same(near(small, 4), [0, 1, 2, 3, 5, 6, 7, 8, 9])
  t.same(near([300], 0), [])
  t.end()
})

t.test('a large chunk comes alone, and none is brought along', t => {
  t.same(near([300, 400_000, 300], 1), [])
  t.same(near([300, 400_000, 300, 300], 3), [2], 'what is behind a large one is not close')
  t.end()
})

t.test('the reach is bounded by stored bytes', t => {
  const sizes = Array.from({ length: 100 }, () => 16 * 1024)
  t.same(near(sizes, 50), [46, 47, 48, 49, 51, 52, 53, 54])
  t.end()
})

t.test('a batch counts once', t => {
  const batch: Extent = { storedOffset: 0, storedLength: 1000, firstChunk: 0, chunkCount: 3 }
  const single: Extent = { storedOffset: 1000, storedLength: 1000, firstChunk: 3, chunkCount: 1 }
  const layout = { chunkCount: 4, extentOf: (chunk: number) => (chunk < 3 ? batch : single) }
  t.same(neighbourhoodOf(layout, single), [0])
  t.same(neighbourhoodOf(layout, batch), [3])
  t.end()
})
