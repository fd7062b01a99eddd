import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { notifyServiceManager } from '../../../src/native/notify.js'
import { scratch, syscallFailure } from '../../helpers/scratch.js'

const pythonMissing = spawnSync('python3', ['-V']).status === 0 ? false : 'needs python3 as the receiver'

/** Receives one datagram as a service manager does, and prints it with what its descriptors hold. */
const RECEIVER = `
import os, socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('\\0' + name[1:] if name[0] == '@' else name)
print('bound', flush=True)
message, fds, _, _ = socket.recv_fds(s, 4096, 10)
print(repr(message.decode()), [os.pread(fd, 100, 0).decode() for fd in fds], flush=True)
`

async function receive(t: Test, name: string, send: () => void): Promise<string> {
  const child = spawn('python3', ['-c', RECEIVER, name], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const lines = createInterface(child.stdout)
  t.strictSame(await once(lines, 'line'), ['bound'])
  const line = once(lines, 'line') as Promise<[string]>
  send()
  return (await line)[0]
}

t.test('nobody listens', async t => {
  const directory = scratch(t)
  const fails = (name: string, errno: string) =>
    t.throws(() => notifyServiceManager(name, 'READY=1'), syscallFailure(errno))
  fails(path.join(directory, 'missing'), 'ENOENT')
  fails('@nydus-nobody', 'ECONNREFUSED')
  fails('', 'EINVAL')
  fails(`/${'x'.repeat(120)}`, 'EINVAL')
  t.throws(
    () => notifyServiceManager('@x', 'FDSTORE=1', Array<number>(254).fill(0)),
    syscallFailure('EINVAL'),
  )
})

t.test('a message to a socket by path', { skip: pythonMissing }, async t => {
  const name = path.join(scratch(t), 'notify')
  const said = await receive(t, name, () => notifyServiceManager(name, 'READY=1\nSTATUS=up'))
  t.equal(said, String.raw`'READY=1\nSTATUS=up' []`)
})

t.test('a message with descriptors to an abstract socket', { skip: pythonMissing }, async t => {
  const name = `@nydus-test-${process.pid}`
  const files = ['one', 'two'].map(content => {
    const file = path.join(scratch(t), content)
    writeFileSync(file, content)
    return openSync(file, 'r')
  })
  const said = await receive(t, name, () => notifyServiceManager(name, 'FDSTORE=1', files))
  files.forEach(fd => closeSync(fd))
  t.equal(said, `'FDSTORE=1' ['one', 'two']`)
})
