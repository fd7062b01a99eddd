/**
 * One HTTP request, one answer: pooled connections, TLS, timeouts, bounded bodies. No redirects, no authorization, no
 * retries: those belong to the callers, which know what may be repeated.
 *
 * Two lanes, each with its own connections, so that a waiting reader never queues behind prefetch bodies.
 */
import { Agent, buildConnector } from 'undici'
import type { SecureContext } from 'node:tls'
import { fault } from '../common/fault.js'
import { hostnameOf, leadsTo, safeUrl } from './host.js'
import { Exchange, type HttpResponse } from './http-response.js'
import { ReadBuffers } from './read-buffers.js'
import { createTlsContext, type TlsOptions } from './tls.js'
import { cancelled } from './transport-errors.js'

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
const SILENCE_MS = 5_000

export class HttpClient {
  readonly #options: HttpClientOptions
  readonly #lanes: Record<Lane, Agent>
  readonly #buffers = new ReadBuffers()
  #closed: Error | undefined

  constructor(options: HttpClientOptions) {
    this.#options = options
    const connect = this.#connector()
    const silenceTimeoutMs = options.silenceTimeoutMs ?? SILENCE_MS
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
    const exchange = new Exchange({
      url: request.url,
      isHead: request.method === 'HEAD',
      signal,
      windowMs: this.#options.silenceTimeoutMs ?? SILENCE_MS,
      closed: () => this.#closed,
      used: piece => this.#buffers.giveBack(piece),
    })
    try {
      this.#lanes[request.lane ?? 'demand'].dispatch(
        {
          origin: request.url.origin,
          path: request.url.pathname + request.url.search,
          method: request.method,
          headers: { 'user-agent': 'nydus-ts', ...own, ...request.headers },
          ...(request.body === undefined ? {} : { body: request.body }),
        },
        exchange,
      )
    } catch (err) {
      exchange.fail(err)
    }
    return exchange.answer
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
    const { onread } = this.#buffers
    const plain = buildConnector({ timeout, onread })
    const secure = new Map<boolean, buildConnector.connector>()
    const secureFor = (own: boolean): buildConnector.connector => {
      let connector = secure.get(own)
      if (!connector) {
        const secureContext: SecureContext = createTlsContext(tls, own)
        connector = buildConnector({
          timeout,
          onread,
          secureContext,
          rejectUnauthorized: tls.skipVerify !== true,
        })
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
