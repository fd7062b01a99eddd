/** HTTP on a unix socket: what any of our APIs there owes to a client that is slow, wrong or many. */
import { chmodSync, chownSync, lstatSync, unlinkSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { asFault, type Fault, fault, hasErrno } from './fault.js'
import type { Logger } from './log.js'

/** Bodies beyond this are refused: a mount command with its config is a few KiB. */
const BODY_LIMIT_BYTES = 1024 * 1024
const BASE = 'http://localhost'
/** A client that sends its request slower than this is told so: it holds memory of ours. */
const TIMEOUTS = { headersTimeout: 10_000, requestTimeout: 15_000, connectionsCheckingInterval: 2000 }
/** Those beyond are closed at once, those before are served. */
const MAX_CONNECTIONS = 2048
/** How long a refused client may go on sending. */
const LINGER_MS = 2000
/** Of Node's parser. */
const BYTE_PROBLEMS: Readonly<Record<string, readonly [status: number, reason: string, problem: string]>> = {
  HPE_HEADER_OVERFLOW: [431, 'Request Header Fields Too Large', 'the head of the request is too large'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'Request Timeout', 'the request did not arrive in time'],
}
const BAD_REQUEST = [400, 'Bad Request', 'this is no HTTP request'] as const
/** `sun_path` of unix(7), with its end. */
const PATH_LIMIT_BYTES = 107

export interface HttpRequest {
  readonly method: string
  readonly url: URL
  /** The body; empty where there is none. */
  readonly text: string
}

export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly text?: string
}

export interface HttpOptions {
  readonly path: string
  /** What names the path, for the sentences of its errors: `--apisock`. */
  readonly option: string
  readonly owner?: { readonly uid: number; readonly gid: number }
  /** What it throws is answered by `refuse`. */
  readonly answer: (request: HttpRequest) => Promise<HttpAnswer>
  /** Tells a failure; what was no request at all gets the same body with the status of HTTP for it. */
  readonly refuse: (failure: Fault) => HttpAnswer
  readonly logger: Logger
}

/**
 * Serves on a unix socket that its owner alone may open.
 * @throws ADDRESS_IN_USE when a living process answers on the path, or a file is there; a stale socket is replaced.
 *   USAGE for a path that is too long
 */
export async function serveHttp(options: HttpOptions): Promise<Server> {
  const { path, option, owner, logger } = options
  // A longer one would be cut off in silence.
  if (Buffer.byteLength(path) > PATH_LIMIT_BYTES)
    throw fault(
      'USAGE',
      `the path of a socket has at most ${PATH_LIMIT_BYTES} bytes: choose another ${option}`,
    )
  await removeStaleSocket(path, option)
  const server = createServer(TIMEOUTS, (request, response) => {
    respond(request, response, options).catch((err: unknown) => {
      // The client went away while it was answered.
      logger.debug({ err: asFault(err), method: request.method, url: request.url }, 'request lost')
      response.destroy()
    })
  })
  server.maxConnections = MAX_CONNECTIONS
  server.on('clientError', (err, socket) => refuseBytes(err, socket, options))
  await new Promise<void>((resolve, reject) => {
    server.once('error', err => reject(asFault(err, 'ADDRESS_IN_USE', `cannot listen on ${path}`)))
    server.listen({ path, backlog: MAX_CONNECTIONS }, resolve)
  })
  chmodSync(path, 0o600)
  if (owner && (owner.uid !== 0 || owner.gid !== 0)) chownSync(path, owner.uid, owner.gid)
  return server
}

/** @throws REQUEST_INVALID */
export function parseJsonBody(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (err) {
    throw fault('REQUEST_INVALID', 'ParseBody: the request body is not JSON', { cause: err })
  }
}

/** Whether the path is a socket on which nobody listens any more. */
export async function isStaleSocket(path: string): Promise<boolean> {
  return (await tryConnect(path)) === 'stale'
}

async function respond(
  request: IncomingMessage,
  response: ServerResponse,
  { answer, refuse, logger }: HttpOptions,
): Promise<void> {
  let answered: HttpAnswer
  try {
    const text = await readBody(request)
    answered = await answer({ method: request.method ?? 'GET', url: parseTarget(request), text })
  } catch (err) {
    const failure = asFault(err)
    logger.debug({ err: failure, method: request.method, url: request.url }, 'request refused')
    answered = refuse(failure)
  }
  response.writeHead(answered.status, answered.headers)
  response.end(answered.text)
}

/** @throws REQUEST_INVALID */
function parseTarget(request: IncomingMessage): URL {
  const target = request.url ?? '/'
  if (!URL.canParse(target, BASE)) throw fault('REQUEST_INVALID', 'BadRequest: the request target is no path')
  return new URL(target, BASE)
}

/** What is no request of HTTP, or came too slowly, is answered in the same shape as any other refusal. */
function refuseBytes(err: NodeJS.ErrnoException, socket: Duplex, { refuse }: HttpOptions): void {
  if (!socket.writable || err.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const [status, reason, problem] = BYTE_PROBLEMS[err.code ?? ''] ?? BAD_REQUEST
  const { headers, text = '' } = refuse(fault('REQUEST_INVALID', `BadRequest: ${problem}`))
  const head = Object.entries({
    ...headers,
    'content-length': String(Buffer.byteLength(text)),
    connection: 'close',
  })
  const lines = head.map(([name, value]) => `${name}: ${value}\r\n`).join('')
  socket.end(`HTTP/1.1 ${status} ${reason}\r\n${lines}\r\n${text}`)
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

async function removeStaleSocket(path: string, option: string): Promise<void> {
  const found = await tryConnect(path)
  if (found === 'stale') unlinkSync(path)
  if (found === 'alive')
    throw fault('ADDRESS_IN_USE', `another process answers on ${path}: stop it, or choose another ${option}`)
  if (found instanceof Error)
    throw fault('ADDRESS_IN_USE', `${path} cannot be used as a socket: choose another ${option}`, {
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
