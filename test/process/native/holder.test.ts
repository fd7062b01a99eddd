/** The program that keeps descriptors, by what is sent to it and what its table says. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import {
  notifyServiceManager,
  removeDescriptor,
  storeBarrier,
  storeDescriptor,
} from '../../../src/native/notify.js'
import { openPidfd, takeDescriptor } from '../../../src/native/process.js'
import { scratch } from '../../helpers/scratch.js'

const PROGRAM = path.resolve(import.meta.dirname, '../../../native/nydus-holder')
const SOON = { timeoutMs: 10_000 }

interface Holder {
  readonly socket: string
  readonly pid: number
  readonly ended: Promise<unknown[]>
  /** Numbers by name, after everything that was sent. */
  table(): Promise<Map<string, number>>
  kill(signal: NodeJS.Signals): void
  /** What it said so far. */
  said(): string
}

async function start(t: Test, directory = scratch(t)): Promise<Holder> {
  const socket = path.join(directory, 'holder.sock')
  const log = path.join(directory, 'log')
  const logFd = openSync(log, 'a')
  const child = spawn(PROGRAM, [socket, '3'], { stdio: ['ignore', logFd, logFd, 'pipe'] })
  closeSync(logFd)
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const [line] = (await once(child.stdio[3] as NodeJS.ReadableStream, 'data')) as [Buffer]
  t.equal(line.toString(), 'ready\n')
  return {
    socket,
    pid: child.pid ?? 0,
    ended,
    kill: signal => child.kill(signal),
    said: () => readFileSync(log, 'utf8'),
    table: async () => {
      await storeBarrier(socket, SOON)
      const [head, ...lines] = readFileSync(`${socket}.table`, 'utf8').trimEnd().split('\n')
      t.match(head, new RegExp(`^nydus-holder 1 ${child.pid} \\d+$`))
      return new Map(lines.map(text => [text.slice(text.indexOf(' ') + 1), Number.parseInt(text, 10)]))
    },
  }
}

/** A file of that content, open. */
function open(t: Test, content: string): number {
  const file = path.join(scratch(t), 'file')
  writeFileSync(file, content)
  const fd = openSync(file, 'r')
  t.teardown(() => closeSync(fd))
  return fd
}

/** What the holder has at a number. */
function contentOf({ pid }: Holder, fd: number | undefined): string {
  const pidfd = openPidfd(pid)
  const taken = takeDescriptor(pidfd, fd ?? -1)
  const bytes = Buffer.alloc(100)
  const length = readSync(taken, bytes, 0, 100, 0)
  closeSync(taken)
  closeSync(pidfd)
  return bytes.toString('utf8', 0, length)
}

const openCount = ({ pid }: Holder): number => readdirSync(`/proc/${pid}/fd`).length

t.test('keeps, replaces, removes', async t => {
  const holder = await start(t)
  const before = openCount(holder)
  await storeDescriptor(holder.socket, 'shared/fanotify.group', open(t, 'one'), SOON)
  await storeDescriptor(holder.socket, 'shared/fill.a b', open(t, 'two'), SOON)
  const held = await holder.table()
  t.same([...held.keys()], ['shared/fanotify.group', 'shared/fill.a b'])
  t.equal(contentOf(holder, held.get('shared/fanotify.group')), 'one')
  t.equal(contentOf(holder, held.get('shared/fill.a b')), 'two')

  await storeDescriptor(holder.socket, 'shared/fanotify.group', open(t, 'three'), SOON)
  const replaced = await holder.table()
  t.equal(contentOf(holder, replaced.get('shared/fanotify.group')), 'three', 'one of the same name replaces')
  t.equal(openCount(holder), before + 2, 'what was replaced is closed')

  await removeDescriptor(holder.socket, 'shared/fanotify.group', SOON)
  await removeDescriptor(holder.socket, 'never', SOON)
  t.same([...(await holder.table()).keys()], ['shared/fill.a b'])
  t.equal(openCount(holder), before + 1)
})

t.test('a session of its own, nothing inherited to others, a socket for its user alone', async t => {
  const holder = await start(t)
  await storeDescriptor(holder.socket, 'a', open(t, ''), SOON)
  await holder.table()
  const stat = readFileSync(`/proc/${holder.pid}/stat`, 'utf8')
  const [, , , session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  t.equal(Number(session), holder.pid)
  t.equal(readlinkSync(`/proc/${holder.pid}/cwd`), '/')
  t.equal(statSync(holder.socket).mode & 0o777, 0o600)
  t.equal(statSync(`${holder.socket}.table`).mode & 0o777, 0o600)
  const own = readdirSync(`/proc/${holder.pid}/fdinfo`).filter(fd => Number(fd) > 2)
  for (const fd of own) {
    const flags = /flags:\s+(\d+)/.exec(readFileSync(`/proc/${holder.pid}/fdinfo/${fd}`, 'utf8'))?.[1]
    t.ok(Number.parseInt(flags ?? '', 8) & 0o2000000, `descriptor ${fd} is closed on exec`)
  }
  t.equal(readdirSync(`/proc/${holder.pid}/task`).length, 1, 'one thread')
})

t.test('SIGTERM ends it only when it holds nothing', async t => {
  const holder = await start(t)
  await storeDescriptor(holder.socket, 'a', open(t, ''), SOON)
  await storeBarrier(holder.socket, SOON)
  holder.kill('SIGTERM')
  for (const signal of ['SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1'] as const) holder.kill(signal)
  t.equal((await holder.table()).size, 1, 'it answers still')
  await removeDescriptor(holder.socket, 'a', SOON)
  holder.kill('SIGTERM')
  t.same(await holder.ended, [0, null], 'what was asked before is done before')
  t.same(
    readdirSync(path.dirname(holder.socket)).filter(name => name !== 'log'),
    [],
  )
})

t.test('another takes the place of a killed one', async t => {
  const directory = scratch(t)
  const first = await start(t, directory)
  await storeDescriptor(first.socket, 'a', open(t, ''), SOON)
  await storeBarrier(first.socket, SOON)
  first.kill('SIGKILL')
  await first.ended
  await t.rejects(storeBarrier(first.socket, SOON), { code: 'SYSCALL_FAILED' }, 'nobody listens')
  const second = await start(t, directory)
  t.equal((await second.table()).size, 0, 'a table of another process is not taken for its own')
})

t.test('bad messages are refused, and nothing of them is kept', async t => {
  const holder = await start(t)
  await storeDescriptor(holder.socket, 'good', open(t, 'good'), SOON)
  const held = await holder.table()
  const count = openCount(holder)
  const fd = open(t, '')
  const send = (message: string, fds: number[] = [fd]) => notifyServiceManager(holder.socket, message, fds)
  send('FDSTORE=1\nFDNAME=without', [])
  send('FDSTORE=1\nFDNAME=two', [fd, fd])
  send('FDSTORE=1\nFDNAME=many', Array<number>(253).fill(fd))
  send('FDSTORE=1')
  send('FDSTORE=1\nFDNAME=')
  send('FDSTORE=1\nFDNAME=a:b')
  await storeBarrier(holder.socket, SOON)
  send('FDSTORE=1\nFDNAME=a\tb')
  send('FDSTORE=1\nFDNAME=\u001b[2J')
  send('FDSTORE=1\nFDNAME=ümlaut')
  send(`FDSTORE=1\nFDNAME=${'x'.repeat(256)}`)
  send('FDSTOREREMOVE=1', [])
  send('FDSTOREREMOVE=1\nFDNAME=good\u0001', [])
  await storeBarrier(holder.socket, SOON)
  send('BARRIER=1', [])
  send('BARRIER=1', [fd, fd])
  send('BARRIER=1\nFDSTORE=1\nFDNAME=both')
  send('')
  send('=')
  send('FDSTORE=10\nFDNAME=unknown')
  await storeBarrier(holder.socket, SOON)
  send(`FDSTORE=1\nFDNAME=long\n${'x'.repeat(8192)}`)
  send('y'.repeat(100_000))
  t.throws(() => send('z'.repeat(1 << 20)), { code: 'SYSCALL_FAILED' }, 'more than a socket takes')
  t.strictSame(await holder.table(), held)
  t.equal(openCount(holder), count, 'every descriptor that came is closed')
  t.match(holder.said(), /a:b|not printable/)
})

t.test('a megabyte of noise, message by message', async t => {
  const holder = await start(t)
  await storeDescriptor(holder.socket, 'good', open(t, 'good'), SOON)
  const held = await holder.table()
  const count = openCount(holder)
  const fd = open(t, '')
  const words = [
    'FDSTORE=1',
    'FDSTOREREMOVE=1',
    'BARRIER=1',
    'FDNAME=',
    '\n',
    '=',
    'x'.repeat(300),
    '\u0002',
    'FDNAME=:',
  ]
  let seed = 1
  const random = (below: number): number => (seed = Math.imul(seed, 48_271) >>> 0) % below
  for (let sent = 0; sent < 1 << 20;) {
    const message = Array.from({ length: random(40) }, () => words[random(words.length)] ?? '').join('')
    try {
      notifyServiceManager(holder.socket, message, Array<number>(random(4)).fill(fd))
      sent += message.length + 1
    } catch {
      await storeBarrier(holder.socket, SOON)
    }
  }
  const after = await holder.table()
  for (const name of after.keys()) t.match(name, /^[ -9;-~]{1,255}$/)
  t.equal(after.get('good'), held.get('good'))
  t.equal(openCount(holder), count + after.size - held.size)
})

t.test('somebody else is not heard', { skip: process.geteuid?.() !== 0 && 'needs root' }, async t => {
  const holder = await start(t)
  for (let up = path.dirname(holder.socket); up !== '/'; up = path.dirname(up))
    if (up !== '/tmp') chmodSync(up, 0o755)
  chmodSync(holder.socket, 0o666)
  const script =
    'import socket, sys\n' +
    's = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n' +
    's.connect(sys.argv[1])\n' +
    "socket.send_fds(s, [b'FDSTORE=1\\nFDNAME=evil'], [0])"
  execFileSync('python3', ['-c', script, holder.socket], { uid: 65_534, gid: 65_534 })
  t.equal((await holder.table()).size, 0)
  t.match(holder.said(), /user 65534 is refused/)
})

t.test('a barrier tells when the table cannot be written', async t => {
  const holder = await start(t)
  mkdirSync(`${holder.socket}.table.new`)
  await storeDescriptor(holder.socket, 'a', open(t, ''), SOON)
  await t.rejects(storeBarrier(holder.socket, SOON), { code: 'HOLDER_UNAVAILABLE' })
})

t.test('a thousand and more; 16,384 at most; under 10 MiB', { timeout: 120_000 }, async t => {
  const holder = await start(t)
  const memory = (): number =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${holder.pid}/status`, 'utf8'))?.[1]) / 1024
  const fd = open(t, '')
  const blob = 'b'.repeat(64)
  const store = (index: number): Promise<void> =>
    storeDescriptor(holder.socket, `shared/fill.${String(index).padStart(8, '0')}${blob}`, fd, SOON)
  await store(0)
  await storeBarrier(holder.socket, SOON)
  const one = memory()
  for (let index = 1; index < 1000; index++) await store(index)
  t.equal((await holder.table()).size, 1000)
  const thousand = memory()
  for (let index = 1000; index < 16_400; index++) await store(index)
  t.equal((await holder.table()).size, 16_384)
  t.match(holder.said(), /there is no room for more/)
  t.comment(
    `VmRSS with 1, 1,000 and 16,384: ${[one, thousand, memory()].map(mib => mib.toFixed(2)).join(', ')} MiB`,
  )
  t.ok(memory() < 10)
  t.ok(fstatSync(fd).isFile())
})

t.test('the command line', async t => {
  const child = spawn(PROGRAM, [], { stdio: 'ignore' })
  t.same(await once(child, 'exit'), [2, null])
  const other = spawn(PROGRAM, ['/tmp/never', '4'], { stdio: 'ignore' })
  t.same(await once(other, 'exit'), [2, null])
  const long = spawn(PROGRAM, [`/tmp/${'x'.repeat(200)}`], { stdio: 'ignore' })
  t.same(await once(long, 'exit'), [1, null])
})
