/**
 * One HTTP request, one answer: pooled connections, TLS, timeouts, bounded bodies. No redirects, no authorization, no
 * retries: those belong to the callers, which know what may be repeated.
 *
 * Two lanes, each with its own connections, so that a waiting reader never queues behind prefetch bodies.
 */
import { Agent, buildConnector, type Dispatcher } from 'undici'
import type { SecureContext } from 'node:tls'
import { fault, isFault } from '../common/fault.js'
import { hostnameOf, leadsTo, safeUrl } from './host.js'
import { createTlsContext, type TlsOptions } from './tls.js'
import { cancelled, transportFault } from './transport-errors.js'

export type Lane = 'demand' | 'background'

export interface HttpClientOptions {
  /** The registry's own host, the only one that sees a client certificate. */
  readonly host: string
  readonly tls?: TlsOptions
  /** To an established connection; 0 waits for ever. Default 5,000. */
  readonly connectTimeoutMs?: number
  /** To the first header, and between two pieces of a body; 0 waits for ever. Default 5,000. */
  readonly silenceTimeoutMs?: number
  /** Connections per host. Default 8 for demand, 4 for background. */
  readonly connections?: Partial<Record<Lane, number>>
  /** Sent with every request to the registry's own host. */
  readonly headers?: Readonly<Record<string, string>>
}

export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  readonly url: URL
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array | string
  readonly lane?: Lane
  readonly signal?: AbortSignal | undefined
}

const KEEP_ALIVE_MS = 15_000
/** A body slower than this over a whole silence timeout counts as stalled: a trickle must not hold a reader. */
const MIN_BYTES_PER_WINDOW = 16 << 10
const DISCARD_LIMIT = 64 << 10

export class HttpClient {
  readonly #options: HttpClientOptions
  readonly #lanes: Record<Lane, Agent>
  #closed: Error | undefined

  constructor(options: HttpClientOptions) {
    this.#options = options
    const connect = this.#connector()
    const silenceTimeoutMs = options.silenceTimeoutMs ?? 5_000
    const lane = (connections: number): Agent =>
      new Agent({
        connect,
        connections,
        headersTimeout: silenceTimeoutMs,
        bodyTimeout: silenceTimeoutMs,
        keepAliveTimeout: KEEP_ALIVE_MS,
      })
    this.#lanes = {
      demand: lane(options.connections?.demand ?? 8),
      background: lane(options.connections?.background ?? 4),
    }
  }

  /** @throws REGISTRY_UNAVAILABLE, REGISTRY_TLS, REGISTRY_PLAIN_HTTP, REGISTRY_PROTOCOL, CANCELLED */
  async send(request: HttpRequest): Promise<HttpResponse> {
    const where = safeUrl(request.url)
    const { signal } = request
    if (this.#closed) throw this.#closed
    if (signal?.aborted === true) throw cancelled(where, signal.reason)
    const own = leadsTo(request.url, this.#options.host) ? this.#options.headers : undefined
    try {
      const answer = await this.#lanes[request.lane ?? 'demand'].request({
        origin: request.url.origin,
        path: request.url.pathname + request.url.search,
        method: request.method,
        headers: { 'user-agent': 'nydus-ts', ...own, ...request.headers },
        ...(request.body === undefined ? {} : { body: request.body }),
        ...(signal === undefined ? {} : { signal }),
      })
      return new HttpResponse(request, answer, this.#options.silenceTimeoutMs ?? 5_000, () => this.#closed)
    } catch (err) {
      throw this.#closed ?? transportFault(err, where, signal)
    }
  }

  /** Ends all connections at once; requests under way fail with CANCELLED. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return
    const closed = fault('CANCELLED', `the client of ${this.#options.host} was closed`)
    this.#closed = closed
    await Promise.all(Object.values(this.#lanes).map(agent => agent.destroy(closed)))
  }

  #connector(): buildConnector.connector {
    const tls = this.#options.tls ?? {}
    const timeout = this.#options.connectTimeoutMs ?? 5_000
    const registryName = hostnameOf(this.#options.host)
    const plain = buildConnector({ timeout })
    const secure = new Map<boolean, buildConnector.connector>()
    const secureFor = (own: boolean): buildConnector.connector => {
      let connector = secure.get(own)
      if (!connector) {
        const secureContext: SecureContext = createTlsContext(tls, own)
        connector = buildConnector({ timeout, secureContext, rejectUnauthorized: tls.skipVerify !== true })
        secure.set(own, connector)
      }
      return connector
    }
    return (options, callback) => {
      if (options.protocol !== 'https:') return plain(options, callback)
      let connector
      try {
        const name = hostnameOf(options.hostname)
        connector = secureFor(name === registryName)
      } catch (err) {
        queueMicrotask(() => callback(err as Error, null))
        return
      }
      connector(options, callback)
    }
  }
}

export class HttpResponse {
  readonly url: URL
  readonly status: number
  readonly #request: HttpRequest
  readonly #answer: Dispatcher.ResponseData
  readonly #windowMs: number
  readonly #closed: () => Error | undefined

  constructor(
    request: HttpRequest,
    answer: Dispatcher.ResponseData,
    windowMs: number,
    closed: () => Error | undefined,
  ) {
    this.#request = request
    this.url = request.url
    this.status = answer.statusCode
    this.#answer = answer
    this.#windowMs = windowMs
    this.#closed = closed
  }

  header(name: string): string | undefined {
    const value = this.#answer.headers[name]
    return Array.isArray(value) ? value.join(', ') : value
  }

  /** Content-Length in bytes; undefined when it is not told or is no number. */
  get contentLength(): number | undefined {
    const text = this.header('content-length')
    return text !== undefined && /^[0-9]{1,15}$/.test(text) ? Number(text) : undefined
  }

  /**
   * The body piece by piece; stopping early ends the connection.
   * @throws REGISTRY_UNAVAILABLE when it is cut short, is silent or trickles; CANCELLED
   */
  async *pieces(): AsyncGenerator<Uint8Array, void, undefined> {
    const source = this.#answer.body[Symbol.asyncIterator]()
    let waitedMs = 0
    let windowBytes = 0
    try {
      for (;;) {
        const before = performance.now()
        const next = (await source.next()) as IteratorResult<Uint8Array, unknown>
        if (next.done === true) return
        waitedMs += performance.now() - before
        windowBytes += next.value.length
        if (this.#windowMs > 0 && waitedMs > this.#windowMs) {
          if (windowBytes < MIN_BYTES_PER_WINDOW) throw this.#stalled(windowBytes, waitedMs)
          waitedMs = 0
          windowBytes = 0
        }
        yield next.value
      }
    } catch (err) {
      throw this.#closed() ?? transportFault(err, safeUrl(this.url), this.#request.signal)
    } finally {
      if (!this.#answer.body.readableEnded) this.discardNow()
    }
  }

  /** The whole body. @throws REGISTRY_PROTOCOL when it is longer than `limitBytes` */
  async bytes(limitBytes: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = []
    let length = 0
    for await (const piece of this.pieces()) {
      length += piece.length
      if (length > limitBytes) {
        throw fault('REGISTRY_PROTOCOL', `${safeUrl(this.url)} answered with more than ${limitBytes} bytes`, {
          retryable: false,
        })
      }
      pieces.push(piece)
    }
    return Buffer.concat(pieces, length)
  }

  /** Reads away a short body, so that the connection can be used again; ends the connection for a long one. */
  async discard(): Promise<void> {
    // The length that a HEAD tells is not that of its body.
    const length = this.#request.method === 'HEAD' ? 0 : (this.contentLength ?? 0)
    if (length > DISCARD_LIMIT) return this.discardNow()
    let readBytes = 0
    try {
      for await (const piece of this.pieces()) {
        readBytes += piece.length
        if (readBytes > DISCARD_LIMIT) return
      }
    } catch (err) {
      if (isFault(err, 'CANCELLED')) throw err
      // What the body of an unwanted answer does is nobody's concern.
    }
  }

  discardNow(): void {
    // Destroying an unread body makes it emit an error that nobody waits for.
    this.#answer.body.on('error', () => {})
    this.#answer.body.destroy()
  }

  #stalled(bytes: number, waitedMs: number): Error {
    const where = safeUrl(this.url)
    return fault('REGISTRY_UNAVAILABLE', `${where} sent only ${bytes} bytes in ${Math.round(waitedMs)} ms`)
  }
}
