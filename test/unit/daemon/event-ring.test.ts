import t from 'tap'
import { observeRead } from '../../../src/backend/read-events.js'
import { fault, type FaultCode } from '../../../src/common/fault.js'
import { EventRing } from '../../../src/daemon/event-ring.js'

const read = { backend: 'registry', blobId: 'b', kind: 'demand', offset: 4096, length: 10 } as const

async function fail(code: FaultCode, message: string): Promise<void> {
  await observeRead(read, () => Promise.reject(fault(code, message))).catch(() => undefined)
}

t.test('the last failed reads, within bounds', async t => {
  const ring = new EventRing()
  t.strictSame(ring.list(), { max_errors: 500, total_errors: 0, max_size: 51_200, total_size: 0, errors: [] })
  await observeRead(read, () => Promise.resolve())
  await fail('CANCELLED', 'nobody waits')
  await fail('REGISTRY_UNAVAILABLE', 'the registry sleeps')
  const { total_errors: count, total_size: bytes, errors } = ring.list()
  t.equal(count, 1)
  t.match(
    errors[0],
    /^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT - registry: blob b, 10 bytes at 4096: the registry sleeps$/,
  )
  t.equal(bytes, errors[0]?.length)

  for (let i = 0; i < 600; i++) await fail('REGISTRY_UNAVAILABLE', `é${i}`)
  const full = ring.list()
  t.equal(full.total_errors, 500)
  t.match(full.errors.at(-1), /é599$/)
  t.equal(full.total_size, Buffer.byteLength(full.errors.join('')))
  for (let i = 0; i < 100; i++) await fail('REGISTRY_UNAVAILABLE', 'x'.repeat(10_000))
  const long = ring.list()
  t.ok(long.total_size <= 51_200 && long.total_size > 40_000, `${long.total_size} bytes`)
  t.ok(long.errors.length < 60)
})
