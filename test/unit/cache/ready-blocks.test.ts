import t from 'tap'
import fc from 'fast-check'
import {
  createReadyBlocks,
  markRangeReady,
  rangeReady,
  READY_BLOCK,
} from '../../../src/cache/ready-blocks.js'

t.test('a range is ready exactly when each of its blocks was marked', async () => {
  const blocks = 100
  const size = blocks * READY_BLOCK
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(blocks - 1), fc.integer({ min: 1, max: 40 })), { maxLength: 6 }),
      fc.nat(size - 1),
      fc.integer({ min: 1, max: size }),
      (marks, offset, length) => {
        const ready = createReadyBlocks(size)
        const model = new Set<number>()
        for (const [first, count] of marks) {
          const end = Math.min(first + count, blocks)
          markRangeReady(ready, first * READY_BLOCK, (end - first) * READY_BLOCK)
          for (let b = first; b < end; b++) model.add(b)
        }
        let expected = true
        for (
          let b = Math.floor(offset / READY_BLOCK);
          b * READY_BLOCK < Math.min(offset + length, size);
          b++
        ) {
          if (!model.has(b)) expected = false
        }
        return rangeReady(ready, size, offset, length) === expected
      },
    ),
    { numRuns: 500 },
  )
})

t.test('what lies beyond the end counts as ready', async t => {
  const ready = createReadyBlocks(READY_BLOCK)
  markRangeReady(ready, 0, 1)
  t.equal(rangeReady(ready, READY_BLOCK, 0, 10 * READY_BLOCK), true)
})
