import { chmodSync, lstatSync, unlinkSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { connect } from 'node:net'
import type { ErrorBody } from '../client/api.js'
import { asFault, fault, hasErrno, KINDS } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { findRoute, type Actions } from './routes.js'

/** Bodies beyond this are refused: a mount command with its config is a few KiB. */
const BODY_LIMIT_BYTES = 1024 * 1024
const BASE = 'http://nydusd'
/** `sun_path` of unix(7), with its end. */
const PATH_LIMIT_BYTES = 107

/**
 * The daemon's API on a unix socket that only root may open.
 * @throws ADDRESS_IN_USE when a living process answers on the path, or a file is there; a stale socket is replaced
 */
export async function serveApi(path: string, actions: Actions, logger: Logger): Promise<Server> {
  // A longer one would be cut off in silence.
  if (Buffer.byteLength(path) > PATH_LIMIT_BYTES)
    throw fault(
      'USAGE',
      `the path of a socket has at most ${PATH_LIMIT_BYTES} bytes: choose another --apisock`,
    )
  await removeStaleSocket(path)
  const server = createServer((request, response) => {
    answer(request, response, actions).catch((err: unknown) => {
      const failure = asFault(err)
      logger.debug({ err: failure, method: request.method, url: request.url }, 'request refused')
      const body: ErrorBody = { code: 'UNDEFINED', message: failure.message, fault: failure.code }
      send(response, failure.code === 'DAEMON_STATE' ? 400 : KINDS[failure.kind].http, body)
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', err => reject(asFault(err, 'ADDRESS_IN_USE', `cannot listen on ${path}`)))
    server.listen(path, resolve)
  })
  chmodSync(path, 0o600)
  return server
}

async function answer(request: IncomingMessage, response: ServerResponse, actions: Actions): Promise<void> {
  const target = request.url ?? '/'
  if (!URL.canParse(target, BASE)) throw fault('REQUEST_INVALID', 'BadRequest: the request target is no path')
  const url = new URL(target, BASE)
  const route = findRoute(request.method ?? 'GET', url.pathname)
  if (route === 'no-path') throw fault('ROUTE_UNKNOWN', `NoRoute: ${url.pathname} is no path of this API`)
  const text = await readBody(request)
  if (route === 'no-method' || (text !== '') !== route.takesBody) {
    throw fault('REQUEST_INVALID', `BadRequest: ${request.method} ${url.pathname} does not take this form`)
  }
  const result = await route.handle(actions, url.searchParams, route.takesBody ? parseJson(text) : undefined)
  send(response, result === undefined ? 204 : 200, result)
}

async function readBody(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = []
  let size = 0
  for await (const part of request as AsyncIterable<Buffer>) {
    size += part.length
    // The rest is read all the same: a client that still sends would not see the answer.
    if (size <= BODY_LIMIT_BYTES) parts.push(part)
  }
  if (size > BODY_LIMIT_BYTES) throw fault('REQUEST_INVALID', 'the request body is larger than 1 MiB')
  return Buffer.concat(parts).toString('utf8')
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (err) {
    throw fault('REQUEST_INVALID', 'ParseBody: the request body is not JSON', { cause: err })
  }
}

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { server: 'Nydus API', 'content-type': 'application/json' })
  response.end(body === undefined ? undefined : JSON.stringify(body))
}

async function removeStaleSocket(path: string): Promise<void> {
  const alive = await new Promise<boolean>((resolve, reject) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', err => {
      if (hasErrno(err, 'ENOENT')) resolve(false)
      else if (hasErrno(err, 'ECONNREFUSED') && lstatSync(path).isSocket()) {
        unlinkSync(path)
        resolve(false)
      } else
        reject(
          fault('ADDRESS_IN_USE', `${path} cannot be used as a socket: choose another --apisock`, {
            cause: err,
          }),
        )
    })
  })
  if (alive)
    throw fault('ADDRESS_IN_USE', `another daemon answers on ${path}: stop it, or choose another --apisock`)
}
