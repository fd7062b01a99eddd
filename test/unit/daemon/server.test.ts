import { once } from 'node:events'
import { existsSync, readFileSync, renameSync, statSync } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { connect, createServer } from 'node:net'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { BackendMetrics, BlobcacheMetrics, FsMetrics, SuperblockInfo } from '../../../src/client/api.js'
import { fault, type FaultCode } from '../../../src/common/fault.js'
import { silentLogger } from '../../../src/common/log.js'
import type { Actions, StatisticsActions } from '../../../src/daemon/routes.js'
import { serveApi } from '../../../src/daemon/server.js'
import { scratch } from '../../helpers/scratch.js'

interface Answer {
  status: number
  headers: IncomingMessage['headers']
  text: string
}

/** The API on a socket of its own, before actions that note how they were called. */
async function serve(t: Test, overrides: Partial<Actions> = {}, statistics: Partial<StatisticsActions> = {}) {
  const socketPath = path.join(scratch(t), 'api.sock')
  const calls: unknown[][] = []
  const note =
    <T>(name: string, result: T) =>
    (...args: unknown[]): T => {
      calls.push([name, ...args])
      return result
    }
  const done = Promise.resolve()
  const info = {
    id: null,
    version: { package_ver: '1', git_commit: 'c', build_time: 'b', profile: 'p', rustc: 'r' },
    supervisor: null,
    state: 'RUNNING' as const,
    backend_collection: {},
    driver: 'fanotify',
    pid: 1,
  }
  const actions: Actions = {
    info: note('info', info),
    setLogLevel: note('setLogLevel', undefined),
    start: note('start', done),
    exit: note('exit', done),
    descriptors: note('descriptors', []),
    bind: note('bind', done),
    unbind: note('unbind', done),
    instances: note('instances', []),
    mounted: note('mounted', undefined),
    events: note('events', { max_errors: 500, total_errors: 0, max_size: 51200, total_size: 0, errors: [] }),
    sendDescriptor: note('sendDescriptor', done),
    takeOver: note('takeOver', done),
    mountImage: note('mountImage', done),
    remountImage: note('remountImage', done),
    unmountImage: note('unmountImage', done),
    ownConfig: note('ownConfig', '{"own":1}'),
    statistics: {
      superblock: note('superblock', {} as SuperblockInfo),
      mount: note('mount', {} as FsMetrics),
      files: note('files', Promise.resolve({})),
      latestReads: note('latestReads', Promise.resolve([[1], [3, 5]] as const)),
      accessPatterns: note('accessPatterns', Promise.resolve([])),
      backend: note('backend', {} as BackendMetrics),
      blobcache: note('blobcache', {} as BlobcacheMetrics),
      inflight: note('inflight', []),
      ...statistics,
    },
    settings: note('settings', {}),
    putSettings: note('putSettings', undefined),
    cullBlob: note('cullBlob', done),
    ...overrides,
  }
  const server = await serveApi(socketPath, actions, silentLogger)
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return { socketPath, calls }
}

async function ask(
  socketPath: string,
  method: string,
  target: string,
  body?: string | Buffer,
): Promise<Answer> {
  const headers = { 'content-length': Buffer.byteLength(body ?? '') }
  const request = httpRequest({ socketPath, method, path: target, headers })
  request.end(body)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  let text = ''
  for await (const part of response) text += String(part)
  return { status: response.statusCode ?? 0, headers: response.headers, text }
}

const MOUNT = '{"source":"/b","fs_type":"rafs","config":"{}","prefetch_files":null}'

const entry = {
  type: 'bootstrap',
  id: 'fsid',
  domain_id: 'domain',
  config: { id: 'fsid', backend_type: 'localfs', backend_config: {}, metadata_path: '/image.boot' },
}

t.test('answers with and without a body', async t => {
  const { socketPath, calls } = await serve(t)
  const info = await ask(socketPath, 'GET', '/api/v1/daemon')
  t.equal(info.status, 200)
  t.match(info.headers, { server: 'Nydus API', 'content-type': 'application/json' })
  t.match(JSON.parse(info.text), { state: 'RUNNING', backend_collection: {} })
  t.match(JSON.parse((await ask(socketPath, 'GET', '/api/v2/daemon')).text), { backend_collection: null })
  const level = await ask(socketPath, 'PUT', '/api/v1/daemon', '{"log_level":"debug"}')
  t.same([level.status, level.text], [204, ''])
  t.equal((await ask(socketPath, 'PUT', '/api/v2/blobs', JSON.stringify(entry))).status, 204)
  t.equal((await ask(socketPath, 'DELETE', '/api/v2/blobs?domain_id=a%20b&blob_id=c')).status, 204)
  t.equal((await ask(socketPath, 'GET', '/api/v2/blobs')).status, 200)
  t.same(calls.slice(2), [
    ['setLogLevel', 'debug'],
    ['bind', entry],
    ['unbind', 'a b', 'c'],
    ['instances', undefined, undefined],
  ])
})

t.test('the socket is its owner’s alone', async t => {
  const { socketPath } = await serve(t)
  t.equal(statSync(socketPath).mode & 0o777, 0o600)
})

t.test('what the API does not know', async t => {
  const { socketPath, calls } = await serve(t)
  for (const [method, target, body, status, message] of [
    ['GET', '/nowhere', undefined, 404, /NoRoute/],
    ['GET', '/api/v1/daemon/', undefined, 404, /NoRoute/],
    ['GET', '/constructor', undefined, 404, /NoRoute/],
    ['DELETE', '/api/v1/daemon', undefined, 400, /BadRequest/],
    ['GET', '/api/v1/daemon', '{}', 400, /BadRequest/],
    ['PUT', '/api/v1/daemon', undefined, 400, /BadRequest/],
    ['PUT', '/api/v1/daemon', '{', 400, /ParseBody/],
    ['PUT', '/api/v1/daemon', '[]', 400, /log_level/],
    ['PUT', '/api/v1/daemon', '{"log_level":7}', 400, /log_level/],
    ['DELETE', '/api/v2/blobs', undefined, 400, /QueryString\("domain_id"\)/],
    ['PUT', '/api/v2/blobs/mounted?domain_id=d', undefined, 400, /QueryString\("blob_id"\)/],
    ['POST', '/api/v1/mount', MOUNT, 400, /QueryString\("mountpoint"\)/],
    ['POST', '/api/v1/mount?mountpoint=/m', '{}', 400, /ParseBody\(source/],
    ['POST', '/api/v1/mount?mountpoint=/m', '{"source":"/b","fs_type":"rafs"}', 400, /ParseBody\(config/],
    ['POST', '/api/v1/mount?mountpoint=/m', MOUNT.replace('null', '[1]'), 400, /ParseBody\(prefetch_files/],
    ['POST', '/api/v1/mount?mountpoint=/m', MOUNT.replace('"rafs"', '1'), 400, /ParseBody\(fs_type/],
    ['PUT', '/api/v1/mount', MOUNT, 400, /QueryString\("mountpoint"\)/],
    ['DELETE', '/api/v1/mount', undefined, 400, /QueryString\("mountpoint"\)/],
    ['GET', '/api/v1/daemon/backend', undefined, 400, /QueryString\("mountpoint"\)/],
    ['GET', '/api/v1/metrics/files?latest=yes', undefined, 400, /QueryString\("latest"\)/],
    ['PUT', '/api/v1/config', '[]', 400, /ParseBody/],
    ['PUT', '/api/v1/config', '{"registry_auth":1}', 400, /"registry_auth" must be a string/],
    ['PUT', '/api/v1/daemon/start', '{}', 400, /BadRequest/],
    ['PUT', '/api/v2/blobs', 'null', 400, /is an object/],
    ['PUT', '/api/v2/blobs', JSON.stringify({ ...entry, type: 'datablob' }), 400, /type bootstrap/],
    ['PUT', '/api/v2/blobs', JSON.stringify({ ...entry, id: '../x' }), 400, /id must be/],
    ['PUT', '/api/v2/blobs', JSON.stringify({ ...entry, domain_id: '' }), 400, /domain_id must be/],
    ['PUT', '/api/v2/blobs', JSON.stringify({ ...entry, config: 'x' }), 400, /config must be an object/],
    ['PUT', '/api/v2/blobs', JSON.stringify({ ...entry, config: {} }), 400, /backend_type/],
  ] as const) {
    const answer = await ask(socketPath, method, target, body)
    t.equal(answer.status, status, `${method} ${target} ${body ?? ''}`)
    const error = JSON.parse(answer.text) as Record<string, string>
    t.match(error, { code: 'UNDEFINED', message, fault: /^[A-Z_]+$/ })
  }
  t.same(calls, [], 'nothing was done')
})

t.test('a target that is no path at all', async t => {
  const { socketPath } = await serve(t)
  const socket = connect(socketPath)
  t.teardown(() => socket.destroy())
  socket.end('GET //[ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  let text = ''
  for await (const part of socket) text += String(part)
  t.match(text, /^HTTP\/1\.1 400 /)
  t.match(text, /REQUEST_INVALID/)
})

t.test('each endpoint asks for what it is named for', async t => {
  const { socketPath, calls } = await serve(t)
  const command = { source: '/b', fs_type: 'rafs', config: '{}' }
  for (const [method, target, body, status, ...call] of [
    ['GET', '/api/v1/daemon/events', '', 200, 'events'],
    ['GET', '/api/v1/daemon/backend?mountpoint=%2Fa%20b', '', 200, 'superblock', '/a b'],
    ['PUT', '/api/v1/daemon/fuse/sendfd', '', 204, 'sendDescriptor'],
    ['PUT', '/api/v1/daemon/fuse/takeover', '', 204, 'takeOver'],
    ['POST', '/api/v1/mount?mountpoint=/m', MOUNT, 204, 'mountImage', '/m', command],
    [
      'POST',
      '/api/v1/mount?mountpoint=/m',
      MOUNT.replace('null', '["/x"]'),
      204,
      'mountImage',
      '/m',
      { ...command, prefetch_files: ['/x'] },
    ],
    [
      'POST',
      '/api/v1/mount?mountpoint=/m',
      '{"source":"/b","config":""}',
      204,
      'mountImage',
      '/m',
      { source: '/b', fs_type: '', config: '' },
    ],
    ['PUT', '/api/v1/mount?mountpoint=/m&mountpoint=/n', MOUNT, 204, 'remountImage', '/m', command],
    ['DELETE', '/api/v1/mount?mountpoint=/m', '', 204, 'unmountImage', '/m'],
    ['GET', '/api/v1/metrics', '', 200, 'mount', undefined],
    ['GET', '/api/v1/metrics?id=/m', '', 200, 'mount', '/m'],
    ['GET', '/api/v1/metrics/files?id=/m&latest=false', '', 200, 'files', '/m'],
    ['GET', '/api/v1/metrics/files?latest=true', '', 200, 'latestReads', undefined],
    ['GET', '/api/v1/metrics/pattern?id=/m', '', 200, 'accessPatterns', '/m'],
    ['GET', '/api/v1/metrics/backend?id=/m', '', 200, 'backend', '/m'],
    ['GET', '/api/v1/metrics/blobcache?id=c', '', 200, 'blobcache', 'c'],
    ['GET', '/api/v1/metrics/inflight', '', 204, 'inflight'],
    ['GET', '/api/v1/config?id=/', '', 200, 'settings', '/'],
    ['PUT', '/api/v1/config?id=/', '{"registry_auth":"x"}', 204, 'putSettings', '/', { registry_auth: 'x' }],
    ['DELETE', '/api/v2/blobs?blob_id=b', '', 204, 'cullBlob', 'b'],
  ] as const) {
    calls.length = 0
    t.equal((await ask(socketPath, method, target, body)).status, status, `${method} ${target}`)
    t.strictSame(calls, [call], `${method} ${target}`)
  }
  calls.length = 0
  const old = '{"source":"/b","fstype":"rafs","mountpoint":"/m"}'
  t.equal((await ask(socketPath, 'PUT', '/api/v1/mount', old)).status, 204, 'a mount as in 2020')
  t.strictSame(calls, [['ownConfig'], ['mountImage', '/m', { ...command, config: '{"own":1}' }]])
})

t.test('failures have the statuses and messages of upstream', async t => {
  const refuse = (code: FaultCode) => () => Promise.reject(fault(code, 'the sentence'))
  const throwing = (code: FaultCode) => () => {
    throw fault(code, 'the sentence')
  }
  const { socketPath } = await serve(
    t,
    {
      setLogLevel: throwing('CONFIG_INVALID'),
      start: refuse('DAEMON_STATE'),
      exit: () => Promise.reject(new Error('unforeseen')),
      instances: throwing('INSTANCE_UNKNOWN'),
      bind: refuse('INSTANCE_EXISTS'),
      takeOver: refuse('UNIMPLEMENTED'),
      mountImage: refuse('INSTANCE_EXISTS'),
      unmountImage: refuse('INSTANCE_UNKNOWN'),
      remountImage: refuse('REQUEST_INVALID'),
      putSettings: throwing('CONFIG_INVALID'),
      descriptors: throwing('DRIVER_UNSUPPORTED'),
    },
    { mount: throwing('INSTANCE_UNKNOWN'), backend: throwing('INTERNAL') },
  )
  for (const [method, target, body, status, message] of [
    ['PUT', '/api/v1/daemon', '{"log_level":"x"}', 500, 'Configure(DaemonAbnormal(the sentence))'],
    ['PUT', '/api/v1/daemon/start', '', 400, 'Upgrade(DaemonAbnormal(the sentence))'],
    ['PUT', '/api/v1/daemon/exit', '', 500, 'Upgrade(DaemonAbnormal(unforeseen))'],
    ['PUT', '/api/v1/daemon/fuse/takeover', '', 501, 'Upgrade(DaemonAbnormal(the sentence))'],
    ['GET', '/api/v2/blobs?domain_id=d', '', 404, 'GetBlobObjects(Blobs(the sentence))'],
    ['PUT', '/api/v2/blobs', JSON.stringify(entry), 409, 'CreateBlobObject(Blobs(the sentence))'],
    ['POST', '/api/v1/mount?mountpoint=/m', MOUNT, 500, 'Mount(MountFilesystem(the sentence))'],
    ['DELETE', '/api/v1/mount?mountpoint=/m', '', 500, 'Mount(MountFilesystem(the sentence))'],
    ['PUT', '/api/v1/mount?mountpoint=/m', MOUNT, 400, 'the sentence'],
    ['GET', '/api/v1/metrics', '', 404, 'GlobalMetrics(Metrics(the sentence))'],
    ['GET', '/api/v1/metrics/backend', '', 500, 'BackendMetrics(Metrics(the sentence))'],
    ['PUT', '/api/v1/config', '{"a":"b"}', 500, 'Configure(DaemonAbnormal(the sentence))'],
    ['GET', '/api/v1/daemon/fds', '', 412, 'the sentence'],
  ] as const) {
    const answer = await ask(socketPath, method, target, body)
    t.equal(answer.status, status, `${method} ${target}`)
    t.match(JSON.parse(answer.text), { code: 'UNDEFINED', message, fault: /^[A-Z_]+$/ })
  }
})

t.test('a body of 1 MiB is taken, a byte more is refused, and the sender hears it', async t => {
  const { socketPath, calls } = await serve(t)
  const body = (bytes: number): string => `{"log_level":"${'x'.repeat(bytes - 16)}"}`
  t.equal(body(1024).length, 1024)
  t.equal((await ask(socketPath, 'PUT', '/api/v1/daemon', body(1024 * 1024))).status, 204)
  for (const bytes of [1024 * 1024 + 1, 64 * 1024 * 1024]) {
    const answer = await ask(socketPath, 'PUT', '/api/v1/daemon', body(bytes))
    t.equal(answer.status, 400, `${bytes} bytes`)
    t.match(answer.text, /larger than 1 MiB/)
  }
  t.equal(calls.length, 1)
})

t.test('the path of the socket', async t => {
  const { socketPath } = await serve(t)
  const actions = {} as Actions
  await t.rejects(serveApi(socketPath, actions, silentLogger), {
    code: 'ADDRESS_IN_USE',
    message: /another process/,
  })

  const file = path.join(t.testdir({ precious: 'bytes' }), 'precious')
  await t.rejects(serveApi(file, actions, silentLogger), { code: 'ADDRESS_IN_USE' })
  t.equal(readFileSync(file, 'utf8'), 'bytes', 'a file is never taken for a stale socket')

  const long = path.join(scratch(t), 'x'.repeat(100))
  await t.rejects(serveApi(long, actions, silentLogger), { code: 'USAGE', message: /107 bytes/ })
  const nowhere = path.join(scratch(t), 'no/api.sock')
  await t.rejects(serveApi(nowhere, actions, silentLogger), {
    code: 'ADDRESS_IN_USE',
    message: /cannot listen/,
  })
})

t.test('a stale socket is replaced', async t => {
  const directory = scratch(t)
  const [stale, other] = [path.join(directory, 'stale.sock'), path.join(directory, 'other.sock')]
  const server = createServer().listen(other)
  await once(server, 'listening')
  // A socket whose process is gone: renamed, so that closing the server leaves it.
  renameSync(other, stale)
  server.close()
  await once(server, 'close')
  t.ok(existsSync(stale))
  const api = await serveApi(stale, {} as Actions, silentLogger)
  api.close()
  await once(api, 'close')
  t.notOk(existsSync(stale), 'and gone with the server')
})
