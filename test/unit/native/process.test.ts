import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, fstatSync, openSync, readFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { getCloseOnExec } from '../../../src/native/descriptor.js'
import {
  isAlive,
  isSameFile,
  openPidfd,
  sendSignal,
  takeDescriptor,
  waitForExit,
} from '../../../src/native/process.js'
import { scratch, syscallFailure } from '../../helpers/scratch.js'

/** A process that lives until it is killed, with its pidfd. */
async function startSleeper(t: Test, stdout: number | 'ignore' = 'ignore'): Promise<[ChildProcess, number]> {
  const child = spawn('sleep', ['600'], { stdio: ['ignore', stdout, 'ignore'] })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child, 'spawn')
  const pidfd = openPidfd(child.pid!)
  t.teardown(() => closeSync(pidfd))
  return [child, pidfd]
}

t.test('processes that are not there', async t => {
  t.throws(() => openPidfd(0x3fffff), syscallFailure('ESRCH'))
  t.throws(() => openPidfd(-1), syscallFailure('EINVAL'))
  t.equal(isAlive(0x3fffff), false)
  t.equal(isAlive(process.pid), true)
})

t.test('misused descriptors', async t => {
  const [, pidfd] = await startSleeper(t)
  const file = openSync('/proc/self/stat', 'r')
  t.teardown(() => closeSync(file))
  t.throws(() => takeDescriptor(pidfd, 77), syscallFailure('EBADF', 'pidfd_getfd'))
  t.throws(() => takeDescriptor(file, 0), syscallFailure('EBADF'), 'no pidfd')
  t.throws(() => sendSignal(file, 'SIGTERM'), syscallFailure('EBADF'), 'no pidfd')
  await t.rejects(waitForExit(99_999), syscallFailure('EBADF'))
})

t.test("takes a child's descriptor: the same open file", async t => {
  const name = path.join(scratch(t), 'log')
  const ours = openSync(name, 'w')
  const [child, pidfd] = await startSleeper(t, ours)
  const { ino } = fstatSync(ours)
  t.equal(isSameFile(child.pid!, 1, ours), true)
  t.equal(isSameFile(process.pid, ours, ours), true)
  const another = openSync(name, 'w')
  t.equal(isSameFile(child.pid!, 1, another), false, 'the same file, opened twice')
  closeSync(another)
  t.throws(() => isSameFile(child.pid!, 77, ours), syscallFailure('EBADF', 'kcmp'))
  t.throws(() => isSameFile(0x3fffff, 1, ours), syscallFailure('ESRCH', 'kcmp'))
  closeSync(ours)
  const taken = takeDescriptor(pidfd, 1)
  t.equal(fstatSync(taken).ino, ino)
  t.equal(getCloseOnExec(taken), true)
  writeSync(taken, 'written through it')
  closeSync(taken)
  t.equal(readFileSync(name, 'utf8'), 'written through it')
})

t.test('waits for the end of a process, which a signal brings', async t => {
  const [child, pidfd] = await startSleeper(t)
  let ended = false
  const waiting = waitForExit(pidfd).then(() => (ended = true))
  await new Promise(resolve => setImmediate(resolve))
  t.equal(ended, false)
  const exit = once(child, 'exit')
  sendSignal(pidfd, 'SIGTERM')
  await waiting
  t.strictSame(await exit, [null, 'SIGTERM'])
  t.throws(() => sendSignal(pidfd, 'SIGTERM'), syscallFailure('ESRCH'), 'after it was reaped')
  await waitForExit(pidfd)
  t.pass('waiting for what has ended returns')
})

t.test('waiting can be aborted, before and meanwhile', async t => {
  const [, pidfd] = await startSleeper(t)
  await t.rejects(waitForExit(pidfd, { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  const abort = new AbortController()
  const waiting = waitForExit(pidfd, { signal: abort.signal })
  abort.abort()
  await t.rejects(waiting, { code: 'CANCELLED' })
})

t.test('the end of a process with a thread that is blocked in the kernel', async t => {
  const script = `
    import { Worker } from 'node:worker_threads'
    import { endProcess } from '${path.resolve(import.meta.dirname, '../../../src/native/process.js')}'
    process.on('exit', () => console.log('exit handler'))
    const blocks = "import fs from 'node:fs'; fs.writeSync(1, 'blocks'); fs.readSync(0, Buffer.alloc(1))"
    const worker = new Worker(blocks, { eval: true })
    worker.on('exit', () => console.log('worker ended'))
    process.on('SIGTERM', () => endProcess(42))`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  let said = ''
  child.stdout.on('data', bytes => (said += String(bytes)))
  await once(child.stdout, 'data')
  child.kill('SIGTERM')
  t.same(await once(child, 'close'), [42, null])
  t.equal(said, 'blocks', 'nothing else runs')
})
