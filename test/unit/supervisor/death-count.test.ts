import t from 'tap'
import { DeathCount } from '../../../src/supervisor/death-count.js'

t.test('a healthy daemon that is killed is replaced at once, however often', t => {
  const count = new DeathCount()
  for (let death = 0; death < 1000; death++) {
    count.died(250, 'SIGKILL')
    t.equal(count.pauseMs, 0)
  }
  count.died(300, undefined)
  t.equal(count.pauseMs, 0, 'so is one whose end nobody saw')
  t.equal(count.total, 1001)
  t.end()
})

t.test('crashes, short lives and failed starts in a row are followed by doubling pauses', t => {
  for (const [what, die] of [
    ['crash', (count: DeathCount) => count.died(30_000, 'SIGABRT')],
    ['exit', (count: DeathCount) => count.died(30_000, null)],
    ['short life', (count: DeathCount) => count.died(249, 'SIGKILL')],
    ['failed start', (count: DeathCount) => count.failed()],
  ] as const) {
    const count = new DeathCount()
    const pauses = Array.from({ length: 10 }, () => {
      die(count)
      return count.pauseMs
    })
    t.strictSame(pauses, [0, 0, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000], what)
    count.died(60_000, 'SIGSEGV')
    t.equal(count.pauseMs, 0, 'a long life begins afresh')
    t.equal(count.inRow, 1)
  }
  t.end()
})
