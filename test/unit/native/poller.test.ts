import { execFileSync } from 'node:child_process'
import { closeSync, constants, openSync, readdirSync, readSync, writeSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { POLL, startPoller } from '../../../src/native/poller.js'
import { scratch, syscallFailure } from '../../helpers/scratch.js'

/** A FIFO open at both ends, so that neither hangs up. */
function openFifo(t: Parameters<typeof scratch>[0]): number {
  const fifo = path.join(scratch(t), 'fifo')
  execFileSync('mkfifo', [fifo])
  const fd = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK)
  t.teardown(() => closeSync(fd))
  return fd
}

/** The poller's tellings, one at a time. */
function collect(): { onReady: (revents: number) => void; next: () => Promise<number>; told: number[] } {
  const told: number[] = []
  const waiting: ((revents: number) => void)[] = []
  return {
    told,
    onReady: revents => {
      const one = waiting.shift()
      if (one) one(revents)
      else told.push(revents)
    },
    next: () => {
      const one = told.shift()
      return one === undefined ? new Promise(resolve => waiting.push(resolve)) : Promise.resolve(one)
    },
  }
}

t.test('a descriptor that is not open', async t => {
  t.throws(() => startPoller(99_999, () => {}), syscallFailure('EBADF'))
  t.throws(() => startPoller(-1, () => {}), syscallFailure('EBADF'))
})

t.test('tells once per arming', async t => {
  const fd = openFifo(t)
  const { onReady, next, told } = collect()
  const poller = startPoller(fd, onReady)
  writeSync(fd, 'x')
  poller.arm(POLL.IN)
  t.equal(await next(), POLL.IN)
  poller.arm(POLL.OUT)
  t.equal(await next(), POLL.OUT, 'nothing was told twice')
  readSync(fd, Buffer.alloc(1))
  poller.arm(POLL.IN)
  writeSync(fd, 'y')
  t.equal(await next(), POLL.IN, 'data after the arming')
  poller.arm(POLL.IN | POLL.OUT)
  t.equal(await next(), POLL.IN | POLL.OUT)
  await poller.stop()
  t.strictSame(told, [])
})

t.test('a new arming replaces one that waits', async t => {
  const fd = openFifo(t)
  const { onReady, next } = collect()
  const poller = startPoller(fd, onReady)
  poller.arm(POLL.IN)
  poller.arm(POLL.OUT)
  t.equal(await next(), POLL.OUT)
  await poller.stop()
})

t.test('works on a duplicate: closing the original ends nothing', async t => {
  const fifo = path.join(scratch(t), 'fifo')
  execFileSync('mkfifo', [fifo])
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK)
  const writer = openSync(fifo, 'w')
  const { onReady, next } = collect()
  const poller = startPoller(reader, onReady)
  closeSync(reader)
  poller.arm(POLL.IN)
  closeSync(writer)
  t.equal(await next(), POLL.HUP, 'the hang-up of the other end')
  await poller.stop()
})

t.test('stop, again, and what comes after it', async t => {
  const fd = openFifo(t)
  const before = readdirSync('/proc/self/fd').length
  const { onReady, told } = collect()
  const poller = startPoller(fd, onReady)
  poller.unref()
  poller.arm(POLL.IN)
  await Promise.all([poller.stop(), poller.stop()])
  poller.arm(POLL.OUT)
  await poller.stop()
  t.strictSame(told, [])
  t.ok(readdirSync('/proc/self/fd').length <= before, 'its pipes and its duplicate are closed')
})

t.test('many come and go', async t => {
  const fd = openFifo(t)
  for (let i = 0; i < 200; i++) {
    const { onReady, next } = collect()
    const poller = startPoller(fd, onReady)
    poller.arm(POLL.OUT)
    t.equal(await next(), POLL.OUT)
    await poller.stop()
  }
})
