import t from 'tap'
import type { BlobLayout } from '../../../src/cache/layout.js'
import { Readahead } from '../../../src/cache/readahead.js'

const SIZE = 64 * 1024

/** Where chunks of one size are; no bytes. */
function placesOf(chunkCount: number): BlobLayout {
  const never = () => {
    throw new Error('only places are asked for')
  }
  return {
    chunkCount,
    uncompressedSize: chunkCount * SIZE,
    chunkRange: chunk => ({ offset: chunk * SIZE, length: SIZE }),
    chunksIn: (offset, length) => ({
      first: Math.floor(offset / SIZE),
      end: Math.ceil((offset + length) / SIZE),
    }),
    extentOf: never,
    verifiable: never,
    decode: never,
    verify: never,
  }
}

function setUp(count: number, maxWindow = 16 * SIZE) {
  const layout = placesOf(count)
  const readahead = new Readahead(layout, maxWindow)
  const planned = new Set<number>()
  const observe = (offset: number, length = 4096) => {
    const { first, end } = layout.chunksIn(offset, length)
    const plan = readahead.observe(offset, first, end)
    for (let chunk = plan?.first ?? 0; chunk < (plan?.end ?? 0); chunk++) planned.add(chunk)
    return plan
  }
  return { observe, planned }
}

t.test('nothing ahead of scattered readers, however many', t => {
  const { observe, planned } = setUp(1000)
  let state = 1
  for (let i = 0; i < 2000; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    observe((state % (1000 * 16)) * 4096 + 1, 100)
  }
  t.ok(planned.size < 100, `${planned.size} chunks of 2000 reads`)
  t.end()
})

t.test('a sequential reader has more and more ahead, up to the bound', t => {
  const { observe } = setUp(400)
  const seen = new Map<number, number>()
  let ahead = 0
  for (let chunk = 0; chunk < 400; chunk++) {
    const plan = observe(chunk * SIZE)
    if (plan) {
      t.ok(plan.first >= ahead && plan.first > chunk, 'nothing twice')
      ahead = plan.end
    }
    seen.set(chunk, ahead - chunk - 1)
  }
  t.equal(seen.get(1), -2, 'two chunks are no sequence')
  t.ok(seen.get(3)! > 0)
  t.ok(seen.get(100)! >= 8)
  t.ok([...seen.values()].every(n => n <= 16))
  t.equal(ahead, 400, 'and not beyond the end')
  t.end()
})

t.test('a reader that is heard of at the marker of each plan only goes on', t => {
  const { observe } = setUp(300)
  let plan = [0, 1, 2].map(chunk => observe(chunk * SIZE)).at(-1)
  const markers: number[] = []
  while (plan && plan.end < 300) {
    t.ok(plan.marker >= plan.first && plan.marker < plan.end)
    markers.push(plan.marker)
    plan = observe(plan.marker * SIZE)
  }
  t.equal(plan?.end, 300, `${markers.length} reports for 300 chunks`)
  t.ok(markers.length > 10 && markers.length < 80)
  t.end()
})

t.test('several readers at once', t => {
  const { observe } = setUp(1000)
  const plans = [0, 200, 400, 600].map(() => 0)
  for (let chunk = 0; chunk < 50; chunk++) {
    for (const [i, start] of [0, 200, 400, 600].entries()) {
      if (observe((start + chunk) * SIZE)) plans[i]!++
    }
  }
  t.ok(
    plans.every(n => n > 3),
    plans.join(' '),
  )
  t.end()
})

t.test('never more than half of what was read in a row is read ahead in vain', t => {
  for (const length of [3, 4, 8, 20, 60]) {
    const { observe, planned } = setUp(1000, 1000 * SIZE)
    for (let chunk = 100; chunk < 100 + length; chunk++) observe(chunk * SIZE)
    const vain = [...planned].filter(chunk => chunk >= 100 + length).length
    t.ok(vain <= Math.max(2, length / 2), `${vain} after ${length}`)
  }
  t.end()
})
