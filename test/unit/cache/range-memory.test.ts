import t from 'tap'
import { RangeMemory } from '../../../src/cache/range-memory.js'

const MIB = 1 << 20

t.test('memory is used again, by whoever needs about as much', t => {
  const memory = new RangeMemory(8 * MIB)
  const first = memory.take(3 * MIB)
  t.equal(first.length, 3 * MIB)
  const other = memory.take(3 * MIB)
  t.not(other.buffer, first.buffer, 'what is in use is not given twice')
  memory.giveBack(first)
  t.not(memory.take(MIB).buffer, first.buffer, 'not for a small part of it')
  const again = memory.take(4 * MIB)
  t.equal(again.buffer, first.buffer)
  t.equal(again.length, 4 * MIB)
  t.end()
})

t.test('no more is kept than the bound', t => {
  const memory = new RangeMemory(4 * MIB)
  const [small, large] = [memory.take(2 * MIB), memory.take(4 * MIB)]
  memory.giveBack(small)
  memory.giveBack(large)
  t.not(memory.take(2 * MIB).buffer, small.buffer, 'what was given back longest ago went')
  t.equal(memory.take(4 * MIB).buffer, large.buffer)
  const huge = memory.take(16 * MIB)
  memory.giveBack(huge)
  t.not(memory.take(16 * MIB).buffer, huge.buffer)
  t.end()
})
