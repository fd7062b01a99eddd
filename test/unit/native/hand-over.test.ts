import { closeSync, openSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import path from 'node:path'
import t from 'tap'
import { getCloseOnExec } from '../../../src/native/descriptor.js'
import { receiveState, sendState } from '../../../src/native/hand-over.js'
import { scratch, syscallFailure } from '../../helpers/scratch.js'
import { pythonMissing, startStateHolder } from '../../helpers/state-holder.js'

const DEADLINE = { timeoutMs: 30_000 }

t.test('nobody listens', async t => {
  const missing = path.join(scratch(t), 'missing')
  const sent = sendState(missing, Buffer.from('x'), 0, DEADLINE)
  await t.rejects(sent, syscallFailure('ENOENT', 'connect'))
  await t.rejects(receiveState(missing, DEADLINE), syscallFailure('ENOENT', 'connect'))
  await t.rejects(receiveState(`/${'x'.repeat(120)}`, DEADLINE), syscallFailure('EINVAL', 'connect'))
})

t.test('bytes and descriptor there and back', { skip: pythonMissing }, async t => {
  const directory = scratch(t)
  const holder = startStateHolder(t, path.join(directory, 'sock'))
  const file = path.join(directory, 'file')
  writeFileSync(file, 'what the descriptor shows')
  const fd = openSync(file, 'r')
  // More than any socket buffer, so that it goes in many parts.
  const state = Buffer.alloc(3_000_001, 'state of a daemon ')
  const came = await holder.receive(() => sendState(holder.socketPath, state, fd, DEADLINE))
  t.strictSame(came, { sizeBytes: state.length, descriptors: 1, head: state.subarray(0, 200) })
  closeSync(fd)
  const taken = await holder.give(() => receiveState(holder.socketPath, DEADLINE))
  t.ok(taken.bytes.equals(state))
  t.equal(readFileSync(taken.fd, 'utf8'), 'what the descriptor shows')
  t.equal(getCloseOnExec(taken.fd), true)
  closeSync(taken.fd)
})

t.test('not one descriptor, but none or two', { skip: pythonMissing }, async t => {
  const directory = scratch(t)
  const holder = startStateHolder(t, path.join(directory, 'sock'))
  await holder.put(Buffer.from('state'))
  const refused = (): Promise<unknown> =>
    t.rejects(receiveState(holder.socketPath, DEADLINE), syscallFailure('EBADMSG', 'recvmsg'))
  await holder.give(refused)
  await holder.open('/dev/null', '/dev/zero')
  const before = readdirSync('/proc/self/fd').length
  await holder.give(refused)
  t.equal(readdirSync('/proc/self/fd').length, before, 'what came is closed')
})

t.test('who never answers is left at the deadline', async t => {
  const socketPath = path.join(scratch(t), 'sock')
  const server = createServer()
  await new Promise<void>(resolve => server.listen(socketPath, resolve))
  t.teardown(() => server.close())
  await t.rejects(receiveState(socketPath, { timeoutMs: 200 }), { code: 'NATIVE_TIMEOUT' })
})
