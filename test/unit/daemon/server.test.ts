import { once } from 'node:events'
import { existsSync, readFileSync, renameSync, statSync } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { connect, createServer } from 'node:net'
import path from 'node:path'
import t, { type Test } from 'tap'
import { fault } from '../../../src/common/fault.js'
import { silentLogger } from '../../../src/common/log.js'
import type { Actions } from '../../../src/daemon/routes.js'
import { serveApi } from '../../../src/daemon/server.js'
import { scratch } from '../../helpers/scratch.js'

interface Answer {
  status: number
  headers: IncomingMessage['headers']
  text: string
}

/** The API on a socket of its own, before actions that note how they were called. */
async function serve(t: Test, overrides: Partial<Actions> = {}) {
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
    metrics: note('metrics', {}),
    blobcacheMetrics: note('blobcacheMetrics', {}),
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
    ['POST', '/api/v1/mount?mountpoint=/m', '{}', 501, /mounts nothing itself/],
    ['DELETE', '/api/v1/mount?mountpoint=/m', undefined, 501, /mounts nothing itself/],
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

t.test('the kind of a fault is its status; a state that does not fit is 400', async t => {
  const { socketPath } = await serve(t, {
    start: () => Promise.reject(fault('DAEMON_STATE', 'not now')),
    exit: () => Promise.reject(new Error('unforeseen')),
    instances: () => {
      throw fault('INSTANCE_UNKNOWN', 'who?')
    },
    bind: () => Promise.reject(fault('INSTANCE_EXISTS', 'already')),
  })
  const status = async (method: string, target: string, body?: string) =>
    (await ask(socketPath, method, target, body)).status
  t.equal(await status('PUT', '/api/v1/daemon/start'), 400)
  t.equal(await status('PUT', '/api/v1/daemon/exit'), 500)
  t.equal(await status('GET', '/api/v2/blobs?domain_id=d'), 404)
  t.equal(await status('PUT', '/api/v2/blobs', JSON.stringify(entry)), 409)
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
    message: /another daemon/,
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
