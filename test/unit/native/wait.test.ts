import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, openSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { probeRead } from '../../../src/native/file.js'
import { countLiveJobs, parseContextMessages, waitForJob } from '../../../src/native/wait.js'
import { scratch, syscallFailure } from '../../helpers/scratch.js'

const timeoutMs = 10_000

/** A FIFO that nobody writes: opening it to read hangs until somebody does. */
function hangingFile(t: Parameters<typeof scratch>[0]): string {
  const fifo = path.join(scratch(t), 'fifo')
  execFileSync('mkfifo', [fifo])
  return fifo
}

/** Lets everything go that hangs on the FIFO, and waits until the threads are gone. */
async function release(fifo: string): Promise<void> {
  const fd = openSync(fifo, 'r+')
  while (countLiveJobs() > 0) await delay(1)
  closeSync(fd)
}

t.test('a job that did not start', async t => {
  await t.rejects(waitForJob('it', -11, { timeoutMs }), syscallFailure('EAGAIN'))
})

t.test('a call that hangs ends at its deadline, and its thread with the call', async t => {
  const fifo = hangingFile(t)
  await t.rejects(probeRead(fifo, 0, 1, { timeoutMs: 20 }), {
    code: 'NATIVE_TIMEOUT',
    message: /did not return within 20 ms/,
  })
  t.equal(countLiveJobs(), 1, 'the thread still hangs')
  await release(fifo)
})

t.test('hanging threads are bounded', async t => {
  const fifo = hangingFile(t)
  const hung = Array.from({ length: 256 }, () => probeRead(fifo, 0, 1, { timeoutMs: 1000 }).catch(() => {}))
  await t.rejects(probeRead('/etc/hostname', 0, 1, { timeoutMs }), syscallFailure('EAGAIN'))
  await Promise.all(hung)
  await release(fifo)
  t.ok(await probeRead('/proc/self/stat', 0, 1, { timeoutMs }), 'and there is room again')
})

t.test('a hanging thread does not keep the process', async t => {
  const url = new URL('../../../src/native/file.js', import.meta.url).href
  const script = `import(${JSON.stringify(url)}).then(m => m.probeRead(process.argv[1], 0, 1, { timeoutMs: 20 }))
    .catch(e => console.log(e.code))`
  const child = spawnSync(process.execPath, ['-e', script, hangingFile(t)], {
    encoding: 'utf8',
    timeout: 20_000,
  })
  t.equal(child.stdout, 'NATIVE_TIMEOUT\n')
  t.equal(child.status, 0, 'it ended by itself')
})

t.test('the event loop runs while jobs wait, more of them than the thread pool has threads', async t => {
  const fifo = hangingFile(t)
  const reads = Array.from({ length: 16 }, () => probeRead(fifo, 0, 1, { timeoutMs }))
  t.ok(await probeRead('/proc/self/stat', 0, 1, { timeoutMs }))
  const rejections = Promise.all(reads.map(read => t.rejects(read, syscallFailure('ESPIPE', 'pread'))))
  await release(fifo)
  await rejections
})

t.test('no descriptor is left behind', async t => {
  const count = () => readdirSync('/proc/self/fd').length
  await probeRead('/proc/self/stat', 0, 1, { timeoutMs })
  const before = count()
  for (let i = 0; i < 50; i++) {
    await probeRead('/proc/self/stat', 0, 1, { timeoutMs })
    await probeRead('/nowhere', 0, 1, { timeoutMs }).catch(() => {})
  }
  await new Promise(resolve => setImmediate(resolve))
  t.ok(count() <= before + 1, `${count()} descriptors after, ${before} before`)
})

t.test('messages of a mount context lose their level', async t => {
  t.strictSame(parseContextMessages(['e erofs: bad', '', 'w x', 'error']), ['erofs: bad', 'x', 'error'])
})
