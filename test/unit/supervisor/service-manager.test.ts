import { closeSync, openSync } from 'node:fs'
import t from 'tap'
import { getCloseOnExec, setCloseOnExec } from '../../../src/native/descriptor.js'
import { takeServiceManager } from '../../../src/supervisor/service-manager.js'

const pid = String(process.pid)
const SOCKET = { NOTIFY_SOCKET: '@manager' }

t.test('a manager with a store', async t => {
  const env = { ...SOCKET, FDSTORE: '512', OTHER: 'stays' }
  t.strictSame(takeServiceManager(env), { socketPath: '@manager', limit: 512, inherited: new Map() })
  t.strictSame(env, { ...SOCKET, OTHER: 'stays' } as typeof env)
})

t.test('one that does not tell, one without a store, none', async t => {
  t.equal(takeServiceManager({ ...SOCKET })?.limit, undefined)
  t.equal(takeServiceManager({ ...SOCKET, FDSTORE: '0' }), undefined)
  t.equal(takeServiceManager({ FDSTORE: '512' }), undefined)
  t.equal(takeServiceManager({ NOTIFY_SOCKET: '' }), undefined)
})

t.test('descriptors that are somebody else’s, or are not there', async t => {
  const env = { ...SOCKET, LISTEN_FDS: '1', LISTEN_FDNAMES: 'a', LISTEN_PID: '1' }
  t.equal(takeServiceManager(env)?.inherited.size, 0)
  t.notOk('LISTEN_FDS' in env)
  for (const count of ['x', '', '-1', 'NaN'])
    t.equal(takeServiceManager({ ...SOCKET, LISTEN_PID: pid, LISTEN_FDS: count })?.inherited.size, 0)
})

t.test('descriptors that came are closed on exec from then on', async t => {
  const fd = openSync('/dev/null', 'r')
  t.teardown(() => closeSync(fd))
  // The first that a manager gives is 3, which is this process's own by now: what it was stays.
  const before = getCloseOnExec(3)
  t.teardown(() => before !== undefined && setCloseOnExec(3, before))
  const taken = takeServiceManager({
    ...SOCKET,
    LISTEN_PID: pid,
    LISTEN_FDS: '1',
    LISTEN_FDNAMES: 'shared/x',
  })
  t.strictSame(taken?.inherited, before === undefined ? new Map() : new Map([['shared/x', 3]]))
  if (before !== undefined) t.equal(getCloseOnExec(3), true)
})
