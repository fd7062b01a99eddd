import t from 'tap'
import { type Access, ACCESS_LOG_BYTES, AccessLog } from '../../../src/fuse/access-log.js'
import { countOperation, countRead, createCounters, lineOf, sumCounters } from '../../../src/fuse/counters.js'
import { FileAccounts } from '../../../src/fuse/file-accounts.js'

t.test('lines of several threads add up, in the classes of upstream', async t => {
  const counters = createCounters(2)
  const [a, b] = [lineOf(counters, 0), lineOf(counters, 1)]
  countOperation(a, 4, false)
  countOperation(b, 4, true)
  for (const kib of [0.5, 1, 3, 4, 15, 16, 64, 128, 512, 1024]) countRead(a, kib * 1024, 200)
  countRead(b, 0, 3_000_000)
  const stats = sumCounters(counters)
  t.equal(stats.hits[4], 2)
  t.equal(stats.errors[4], 1)
  t.same(stats.readsBySize, [2, 2, 2, 1, 1, 1, 1, 1])
  t.same(stats.readsByLatency, [10, 0, 0, 0, 0, 0, 0, 1])
  t.equal(stats.latencyTotalUs[4], 3_002_000)
  t.equal(stats.dataReadBytes, 1767.5 * 1024)
  t.same([stats.hits.length, stats.errors.length, stats.latencyTotalUs.length], [15, 15, 15])
})

const access = (ino: number, more: Partial<Access> = {}): Access => ({
  sequence: 1,
  ino,
  operation: 4,
  failed: false,
  bytes: 10,
  timeMs: 1000 + ino,
  ...more,
})

t.test('a log of accesses that is drained in time loses nothing', async t => {
  const memory = new SharedArrayBuffer(ACCESS_LOG_BYTES)
  const [writer, reader] = [new AccessLog(memory), new AccessLog(memory)]
  let next = 0
  let halves = 0
  for (let ino = 0; ino < 50_000; ino++) {
    if (!writer.write(access(ino, { failed: ino % 2 === 0 }))) continue
    halves++
    reader.drain(seen => {
      if (seen.ino !== next++ || seen.failed !== (seen.ino % 2 === 0)) t.fail(`access ${seen.ino}`)
    })
  }
  reader.drain(() => next++)
  t.equal(next, 50_000)
  t.equal(halves, Math.floor(50_000 / 4096))
  t.equal(reader.takeLost(), 0)
})

t.test('a log that nobody drains keeps the first and counts the rest', async t => {
  const memory = new SharedArrayBuffer(ACCESS_LOG_BYTES)
  const log = new AccessLog(memory)
  for (let ino = 0; ino < 10_000; ino++) log.write(access(ino))
  const seen: number[] = []
  log.drain(({ ino }) => seen.push(ino))
  t.equal(seen.length, 8192)
  t.equal(seen.at(-1), 8191)
  t.equal(log.takeLost(), 10_000 - 8192)
  t.equal(log.takeLost(), 0)
})

t.test('accounts of files', async t => {
  const accounts = new FileAccounts({ files: true, pattern: false, latest: true })
  for (const ino of [9, 3, 4, 5, 9]) accounts.add(access(ino))
  accounts.add(access(3, { operation: 9 }))
  accounts.add(access(7, { failed: true }))
  t.same(accounts.takeLatestReads(), [[3, 5], [9]])
  t.same(accounts.takeLatestReads(), [])
  const stats = accounts.stats()
  t.same(
    stats.map(({ ino, totalOperations, dataReadBytes, firstReadMs }) => [
      ino,
      totalOperations,
      dataReadBytes,
      firstReadMs,
    ]),
    [
      [3, 2, 10, 1003],
      [4, 1, 10, 1004],
      [5, 1, 10, 1005],
      [7, 1, 0, undefined],
      [9, 2, 20, 1009],
    ],
  )
  t.equal(stats[3]?.errors[4], 1)
})

t.test('nothing is kept where nothing is wanted', async t => {
  const accounts = new FileAccounts({ files: false, pattern: false, latest: false })
  t.equal(accounts.enabled, false)
  accounts.add(access(1))
  t.same([accounts.stats(), accounts.takeLatestReads()], [[], []])
})
