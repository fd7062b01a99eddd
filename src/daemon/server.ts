import { chmodSync, lstatSync, unlinkSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import type { ErrorBody } from '../client/api.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { describeFailure } from './api-failure.js'
import { findRoute, type Actions, type Route } from './routes.js'

/** Bodies beyond this are refused: a mount command with its config is a few KiB. */
const BODY_LIMIT_BYTES = 1024 * 1024
const BASE = 'http://nydusd'
const HEADERS = { server: 'Nydus API', 'content-type': 'application/json' }
/** A client that sends its request slower than this is told so: it holds memory of ours. */
const TIMEOUTS = { headersTimeout: 10_000, requestTimeout: 15_000, connectionsCheckingInterval: 2000 }
/** Those beyond are closed at once, those before are served. */
const MAX_CONNECTIONS = 2048
/** How long a refused client may go on sending. */
const LINGER_MS = 2000
/** Of Node's parser. */
const BYTE_PROBLEMS: Readonly<Record<string, readonly [status: string, problem: string]>> = {
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', 'the head of the request is too large'],
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', 'the request did not arrive in time'],
}
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
  const server = createServer(TIMEOUTS, (request, response) => {
    answer(request, response, actions, logger).catch((err: unknown) => {
      // The client went away while it was answered.
      logger.debug({ err: asFault(err), method: request.method, url: request.url }, 'request lost')
      response.destroy()
    })
  })
  server.maxConnections = MAX_CONNECTIONS
  server.on('clientError', refuseBytes)
  await new Promise<void>((resolve, reject) => {
    server.once('error', err => reject(asFault(err, 'ADDRESS_IN_USE', `cannot listen on ${path}`)))
    server.listen({ path, backlog: MAX_CONNECTIONS }, resolve)
  })
  chmodSync(path, 0o600)
  return server
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  actions: Actions,
  logger: Logger,
): Promise<void> {
  let route: Route | undefined
  try {
    const text = await readBody(request)
    const url = parseTarget(request)
    route = routeOf(request, url, text)
    const body = route.takesBody ? parseJson(text) : undefined
    const result = await route.handle(actions, url.searchParams, body)
    send(response, result === undefined ? 204 : 200, result)
  } catch (err) {
    logger.debug({ err: asFault(err), method: request.method, url: request.url }, 'request refused')
    const { status, body } = describeFailure(err, route)
    send(response, status, body)
  }
}

/** @throws REQUEST_INVALID */
function parseTarget(request: IncomingMessage): URL {
  const target = request.url ?? '/'
  if (!URL.canParse(target, BASE)) throw fault('REQUEST_INVALID', 'BadRequest: the request target is no path')
  return new URL(target, BASE)
}

/** @throws ROUTE_UNKNOWN, REQUEST_INVALID */
function routeOf(request: IncomingMessage, url: URL, text: string): Route {
  const route = findRoute(request.method ?? 'GET', url.pathname)
  if (route === 'no-path') throw fault('ROUTE_UNKNOWN', `NoRoute: ${url.pathname} is no path of this API`)
  if (route === 'no-method' || (text !== '') !== route.takesBody)
    throw fault('REQUEST_INVALID', `BadRequest: ${request.method} ${url.pathname} does not take this form`)
  return route
}

/** What is no request of HTTP, or came too slowly, is answered in the same shape as any other refusal. */
function refuseBytes(err: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || err.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const [status, problem] = BYTE_PROBLEMS[err.code ?? ''] ?? ['400 Bad Request', 'this is no HTTP request']
  const body: ErrorBody = { code: 'UNDEFINED', message: `BadRequest: ${problem}`, fault: 'REQUEST_INVALID' }
  const text = JSON.stringify(body)
  const head = Object.entries({ ...HEADERS, 'content-length': text.length, connection: 'close' })
  const lines = head.map(([name, value]) => `${name}: ${value}\r\n`).join('')
  socket.end(`HTTP/1.1 ${status}\r\n${lines}\r\n${text}`)
  // What still comes is read away for a while: a client that sends into a closed socket would not see the answer.
  socket.removeAllListeners('data').on('data', () => undefined)
  socket.once('end', () => socket.destroy())
  setTimeout(() => socket.destroy(), LINGER_MS).unref()
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
  response.writeHead(status, HEADERS)
  response.end(body === undefined ? undefined : JSON.stringify(body))
}

/** Whether the path is a socket on which nobody listens any more. */
export async function isStaleSocket(path: string): Promise<boolean> {
  return (await tryConnect(path)) === 'stale'
}

async function removeStaleSocket(path: string): Promise<void> {
  const found = await tryConnect(path)
  if (found === 'stale') unlinkSync(path)
  if (found === 'alive')
    throw fault('ADDRESS_IN_USE', `another daemon answers on ${path}: stop it, or choose another --apisock`)
  if (found instanceof Error)
    throw fault('ADDRESS_IN_USE', `${path} cannot be used as a socket: choose another --apisock`, {
      cause: found,
    })
}

function tryConnect(path: string): Promise<'alive' | 'stale' | 'missing' | Error> {
  return new Promise(resolve => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve('alive')
    })
    socket.once('error', err => {
      if (hasErrno(err, 'ENOENT')) resolve('missing')
      else resolve(hasErrno(err, 'ECONNREFUSED') && lstatSync(path).isSocket() ? 'stale' : err)
    })
  })
}
