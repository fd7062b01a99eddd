import t from 'tap'
import { getRealTimeNs } from '../../../src/native/clock.js'

t.test('agrees with the system clock and is finer', async t => {
  const before = BigInt(Date.now()) * 1_000_000n
  const times = Array.from({ length: 50 }, () => getRealTimeNs())
  const after = BigInt(Date.now() + 1) * 1_000_000n
  t.ok(times[0]! >= before && times.at(-1)! <= after)
  t.ok(
    times.some(time => time % 1_000_000n !== 0n),
    'below a millisecond',
  )
  t.ok(new Set(times).size > 10, 'calls in a row differ')
})
