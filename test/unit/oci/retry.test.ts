import t from 'tap'
import { fault } from '../../../src/common/fault.js'
import { isLoopbackHost, leadsTo, safeUrl } from '../../../src/oci/host.js'
import { parseContentRange, rangeHeader } from '../../../src/oci/range-body.js'
import { parseRetryAfter, Retry, retrying, type RetryPolicy } from '../../../src/oci/retry.js'

const POLICY: RetryPolicy = { retries: 2, baseDelayMs: 1, maxDelayMs: 2, budgetMs: 1000 }
const broken = (): Error => fault('REGISTRY_UNAVAILABLE', 'broken')

t.test('an attempt is repeated as often as the policy says', async t => {
  let calls = 0
  await t.rejects(
    retrying(POLICY, [], () => Promise.reject(++calls > 0 ? broken() : broken())),
    { code: 'REGISTRY_UNAVAILABLE', message: 'broken (3 attempts)', cause: { message: 'broken' } },
  )
  t.equal(calls, 3)
  const value = await retrying(POLICY, [], () =>
    ++calls < 6 ? Promise.reject(broken()) : Promise.resolve(7),
  )
  t.equal(value, 7)
  await t.rejects(
    retrying(POLICY, [], () => Promise.reject(fault('DIGEST_MISMATCH', 'no'))),
    { message: 'no' },
  )
})

t.test('progress begins the count anew, a trickle does not', async t => {
  const retry = new Retry(POLICY, [])
  for (let i = 0; i < 10; i++) {
    retry.moved(65_536)
    await retry.after(broken())
  }
  await retry.after(broken())
  retry.moved(10)
  await t.rejects(retry.after(broken()), { message: /3 attempts/ })
})

t.test('no attempt begins after the budget, nor after a signal', async t => {
  const asked = fault('REGISTRY_UNAVAILABLE', 'later', { context: { retryAfterMs: 5000 } })
  await t.rejects(new Retry(POLICY, []).after(asked), { message: 'later' })
  const stop = new AbortController()
  const slow = new Retry({ ...POLICY, baseDelayMs: 60_000, maxDelayMs: 60_000, budgetMs: 1e9 }, [stop.signal])
  const waiting = slow.after(broken())
  stop.abort()
  await t.rejects(waiting, { code: 'CANCELLED' })
  await t.rejects(slow.after(broken()), { code: 'CANCELLED' })
})

t.test('Retry-After', async t => {
  t.equal(parseRetryAfter('3'), 3000)
  t.equal(parseRetryAfter('Thu, 01 Jan 1970 00:00:10 GMT', 4000), 6000)
  t.equal(parseRetryAfter('Thu, 01 Jan 1970 00:00:10 GMT', 20_000), 0)
  for (const value of [undefined, '', 'soon', '-1', '1.5x'])
    t.equal(parseRetryAfter(value, 0) ?? 0, 0, value ?? 'none')
})

t.test('ranges', async t => {
  t.equal(rangeHeader(5, 10), 'bytes=5-14')
  t.equal(rangeHeader(5, undefined), 'bytes=5-')
  t.same(parseContentRange('bytes 0-9/100'), { start: 0, end: 9, total: 100 })
  t.same(parseContentRange(' bytes 0-9/* '), { start: 0, end: 9, total: undefined })
  for (const bad of [
    '',
    'bytes',
    'bytes 9-0/10',
    'bytes 0-9/9',
    'bytes */9',
    'items 0-9/10',
    'bytes 0-9/1e3',
  ])
    t.equal(parseContentRange(bad), undefined, bad)
  t.equal(parseContentRange(undefined), undefined)
})

t.test('hosts', async t => {
  for (const host of [
    'localhost',
    'LOCALHOST:5000',
    '127.0.0.1',
    '127.9.9.9:80',
    '[::1]',
    '[::1]:5000',
    '::1',
  ])
    t.ok(isLoopbackHost(host), host)
  for (const host of [
    '127.0.0.1.evil.io',
    'localhost.io',
    '128.0.0.1',
    'r.io:127',
    '[fe80::1]',
    '1270.0.0.1',
  ])
    t.notOk(isLoopbackHost(host), host)
  t.ok(leadsTo(new URL('https://R.io/a'), 'r.IO:443'))
  t.ok(leadsTo(new URL('http://[::1]:5000/a'), '[::1]:5000'))
  t.notOk(leadsTo(new URL('https://r.io:5000/a'), 'r.io'))
  t.notOk(leadsTo(new URL('https://r.io/a'), 'r.io.evil.io'))
  t.equal(safeUrl(new URL('https://u:p@r.io/a?sig=1#f')), 'https://r.io/a')
})
