import { once } from 'node:events'
import { existsSync, statSync } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import path from 'node:path'
import t, { type Test } from 'tap'
import { fault } from '../../../src/common/fault.js'
import { silentLogger } from '../../../src/common/log.js'
import { PrefetchLists } from '../../../src/snapshotter/prefetch-lists.js'
import type { SystemActions } from '../../../src/snapshotter/system-routes.js'
import { SystemServer } from '../../../src/snapshotter/system-server.js'
import { scratch } from '../../helpers/scratch.js'

const DAEMON = {
  id: 'shared',
  pid: 7,
  apiSocket: '/run/api.sock',
  driver: 'fuse',
  commit: 'c0ffee',
  mountpoint: '/mnt',
  references: 2,
  memoryRssKb: 100,
  readDataKb: 3,
  images: [{ id: '12', imageRef: 'r/a:b', mountpoint: '/mnt/12', directory: '/root/snapshots/12' }],
  deaths: 1,
  restartInMs: 0,
}

const DESCRIPTOR = { daemon: 'shared', name: 'fanotify.group', holders: ['daemon', 'holder'] }

async function listen(t: Test, overrides: Partial<SystemActions> = {}) {
  const directory = scratch(t)
  const address = path.join(directory, 'made/system.sock')
  const lists = new PrefetchLists()
  const upgrades: string[] = []
  const server = await SystemServer.listen({
    address,
    owner: { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 },
    actions: {
      daemons: () => Promise.resolve([DAEMON]),
      backend: id => {
        if (id === 'shared') return Promise.resolve({ type: 'registry', config: { auth: 'c2VjcmV0' } })
        return Promise.reject(fault('INSTANCE_UNKNOWN', 'there is none'))
      },
      upgrade: path => {
        upgrades.push(path)
        return Promise.resolve()
      },
      examine: () => Promise.reject(fault('UNIMPLEMENTED', 'not asked')),
      removeDamaged: () => Promise.reject(fault('SNAPSHOT_NOT_FOUND', 'there is none')),
      putPrefetchLists: given => lists.put(given),
      descriptors: () => Promise.resolve([DESCRIPTOR]),
      ...overrides,
    },
    logger: silentLogger,
  })
  t.teardown(() => server.close())
  return { address, lists, upgrades }
}

async function ask(address: string, method: string, target: string, body?: string) {
  const sent = httpRequest({ socketPath: address, method, path: target, agent: false }).end(body)
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  let text = ''
  for await (const part of response) text += String(part)
  return { status: response.statusCode, type: response.headers['content-type'], text }
}

t.test('daemons and their backends, as upstream tells them', async t => {
  const { address } = await listen(t)
  t.equal(statSync(address).mode & 0o777, 0o600)
  const answer = await ask(address, 'GET', '/api/v1/daemons')
  t.match(answer, { status: 200, type: 'application/json' })
  t.strictSame(JSON.parse(answer.text), [
    {
      id: 'shared',
      pid: 7,
      api_socket: '/run/api.sock',
      supervisor_path: '',
      reference: 2,
      mountpoint: '/mnt',
      startup_cpu_utilization: 0,
      memory_rss_kb: 100,
      read_data_kb: 3,
      instances: {
        12: {
          snapshot_id: '12',
          snapshot_dir: '/root/snapshots/12',
          mountpoint: '/mnt/12',
          image_id: 'r/a:b',
        },
      },
      driver: 'fuse',
      commit: 'c0ffee',
      deaths: 1,
      restart_in_ms: 0,
    },
  ])
  const backend = await ask(address, 'GET', '/api/v1/daemons/shared/backend')
  t.strictSame(JSON.parse(backend.text), { type: 'registry', config: { auth: 'c2VjcmV0' } })
})

t.test('prefetch lists are kept until they are used', async t => {
  const { address, lists } = await listen(t)
  const body = JSON.stringify([{ image: 'r/a:b', prefetch: '/bin/sh  /etc\n' }])
  t.match(await ask(address, 'PUT', '/api/v1/prefetch', body), { status: 200, text: '' })
  t.strictSame(lists.take('r/a:b'), ['/bin/sh', '/etc'])
  t.strictSame(lists.take('r/a:b'), [], 'once')
  for (const wrong of ['{', '{}', '[{"image":"a"}]', '[{"image":"","prefetch":"/a"}]', '[7]'])
    t.match(await ask(address, 'PUT', '/api/v1/prefetch', wrong), { status: 400 }, wrong)
  const relative = await ask(address, 'PUT', '/api/v1/prefetch', '[{"image":"a","prefetch":"b"}]')
  t.match(relative.text, /does not begin with/)
})

t.test('an upgrade, by either of its paths', async t => {
  const { address, upgrades } = await listen(t)
  const body = JSON.stringify({ nydusd_path: '/usr/bin/nydusd', version: 'v2', policy: 'rolling' })
  t.match(await ask(address, 'PUT', '/api/v1/daemons/upgrade', body), { status: 200, text: '' })
  t.match(await ask(address, 'PUT', '/api/v1/nydusd/upgrade', '{}'), { status: 200, text: '' })
  t.strictSame(upgrades, ['/usr/bin/nydusd', ''])
  for (const wrong of ['', '{', '[]', '{"nydusd_path":7}'])
    t.match(await ask(address, 'PUT', '/api/v1/daemons/upgrade', wrong), { status: 400 }, wrong)
  t.equal(upgrades.length, 2)
})

t.test('what is refused', async t => {
  const broken = fault('INTERNAL', 'it broke')
  const { address } = await listen(t, { daemons: () => Promise.reject(broken) })
  for (const [method, target, status, code] of [
    ['GET', '/api/v1/nothing', 404, 'ROUTE_UNKNOWN'],
    ['GET', '/api/v1/daemons/shared/backend/more', 404, 'ROUTE_UNKNOWN'],
    ['GET', '/api/v1/daemons//backend', 404, 'ROUTE_UNKNOWN'],
    ['GET', '/api/v1/daemons/other/backend', 404, 'INSTANCE_UNKNOWN'],
    ['POST', '/api/v1/daemons', 405, 'REQUEST_INVALID'],
    ['GET', '/api/v1/daemons/records', 501, 'UNIMPLEMENTED'],
    ['GET', '/api/v1/daemons', 500, 'INTERNAL'],
  ] as const) {
    const { text, ...answer } = await ask(address, method, target)
    t.match(answer, { status, type: 'text/plain; charset=utf-8' }, target)
    t.match(JSON.parse(text), { code: 'Unknown', fault: code })
    t.ok(text.endsWith('}\n'))
  }
})

t.test('the socket goes with the server, and two cannot have it', async t => {
  const { address } = await listen(t)
  const options = { address, owner: { uid: 0, gid: 0 }, actions: {} as SystemActions, logger: silentLogger }
  await t.rejects(SystemServer.listen(options), {
    code: 'ADDRESS_IN_USE',
    message: /choose another system\.address/,
  })
  const other = { ...options, address: path.join(scratch(t), 'other.sock') }
  await (await SystemServer.listen(other)).close()
  t.notOk(existsSync(other.address))
})

t.test('lists of images that are never mounted do not pile up', t => {
  const lists = new PrefetchLists()
  lists.put(Array.from({ length: 1200 }, (_, index) => ({ image: `i${index}`, files: ['/a'] })))
  t.strictSame(lists.take('i0'), [])
  t.strictSame(lists.take('i1199'), ['/a'])
  t.end()
})

t.test('who keeps which descriptor', async t => {
  const { address } = await listen(t)
  const answer = await ask(address, 'GET', '/api/v1/fds')
  t.strictSame(JSON.parse(answer.text), [DESCRIPTOR])
})
