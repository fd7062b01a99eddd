/**
 * A registry inside the test process that misbehaves on request, and remembers what it was asked.
 *
 *     const registry = await startFaultRegistry(t)
 *     const digest = registry.addBlob(bytes)                                  // in repository `app`
 *     registry.inject({ target: 'blob' }, { status: 503 }, { times: 2 })      // fail twice, then serve
 *     const hold = registry.hold({ target: 'blob' })                          // answers wait …
 *     await hold.arrived; hold.release()                                      // … until they may go
 *     registry.log                                                            // every request, with range and bytes
 *
 * Use docker-registry.ts where nothing has to go wrong.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { type Reply, RegistryContent, type Target } from './registry-content.js'
import { send, type SendFault } from './registry-send.js'

export interface FaultRegistryOptions {
  auth?: { username: string; password: string; method: 'basic' | 'bearer'; tokenLifetimeS?: number }
  /** Blobs are answered with a redirect to a second host, at URLs that `expireUrls` makes invalid. */
  redirect?: boolean
  tls?: { certFile: string; keyFile: string; clientCaFile?: string }
}

/** Which requests. Everything that is given must fit. */
export interface Match {
  target?: Target
  method?: string
  digest?: string
  where?: (entry: AccessEntry) => boolean
}

/** What happens to them, in place of or on top of the right answer. */
export type Fault = SendFault & {
  status?: number
  headers?: Record<string, string>
  body?: string | Uint8Array
  /** Answers 200 with everything. */
  ignoreRange?: boolean
  /** Alters the body that would be sent. */
  alter?: (bytes: Uint8Array) => Uint8Array
}

export interface AccessEntry {
  target: Target
  method: string
  /** Without the query. */
  path: string
  query: URLSearchParams
  digest: string | undefined
  /** The Range header as sent. */
  range: string | undefined
  headers: http.IncomingHttpHeaders
  status: number
  /** Bytes of the body handed to the socket. */
  bytes: number
}

export interface Injection {
  /** Requests that it has hit. */
  readonly hits: number
  remove(): void
}

export interface Hold {
  /** Resolves when the first request that it holds has arrived. */
  readonly arrived: Promise<void>
  readonly waiting: number
  /** Lets all go, and later ones too. */
  release(): void
}

interface Rule {
  match: Match
  fault: Fault
  left: number
  skip: number
  hits: number
}

interface HoldRule {
  match: Match
  gate: Promise<void>
  arrive: () => void
  waiting: number
}

export class FaultRegistry {
  readonly log: AccessEntry[] = []
  readonly #content: RegistryContent
  readonly #options: FaultRegistryOptions
  readonly #rules = new Set<Rule>()
  readonly #holds = new Set<HoldRule>()
  readonly #server: http.Server
  readonly #store: http.Server
  #host = ''

  constructor(options: FaultRegistryOptions) {
    this.#options = options
    this.#content = new RegistryContent(options)
    this.#server = this.#listener((req, body) => this.#content.answer(req, body))
    this.#store = this.#listener(req => this.#content.answerStore(req))
  }

  /** `127.0.0.1:<port>`, the same over stop() and start(). */
  get host(): string {
    return this.#host
  }

  /** Where redirects lead. */
  get storeHost(): string {
    return this.#content.storeHost
  }

  /** Stores a blob; `as` gives it a digest that it has not. */
  addBlob(bytes: Uint8Array, options: { repository?: string; as?: string } = {}): string {
    const digest = options.as ?? digestOf(bytes)
    this.#content.putBlob(options.repository ?? 'app', digest, bytes)
    return digest
  }

  /** The stored bytes; undefined when there are none. */
  blob(digest: string, repository = 'app'): Uint8Array | undefined {
    return this.#content.blob(repository, digest)
  }

  /** Stores a manifest under a tag and its digest. */
  addManifest(
    document: unknown,
    options: { repository?: string; tag?: string; mediaType?: string } = {},
  ): string {
    const bytes = Buffer.from(typeof document === 'string' ? document : JSON.stringify(document))
    const digest = digestOf(bytes)
    const mediaType = options.mediaType ?? 'application/vnd.oci.image.manifest.v1+json'
    for (const name of [options.tag ?? 'latest', digest])
      this.#content.putManifest(options.repository ?? 'app', name, { bytes, mediaType })
    return digest
  }

  manifest(name: string, repository = 'app'): Uint8Array | undefined {
    return this.#content.manifest(repository, name)?.bytes
  }

  /** Misbehaves for the next `times` requests that match (default: all), after the first `skip`. Newest rule first. */
  inject(match: Match, fault: Fault, options: { times?: number; skip?: number } = {}): Injection {
    const rule: Rule = { match, fault, left: options.times ?? Infinity, skip: options.skip ?? 0, hits: 0 }
    this.#rules.add(rule)
    return {
      get hits() {
        return rule.hits
      },
      remove: () => void this.#rules.delete(rule),
    }
  }

  /** Keeps answers to matching requests back until released. */
  hold(match: Match): Hold {
    let release = (): void => {}
    let arrive = (): void => {}
    const gate = new Promise<void>(resolve => (release = resolve))
    const arrived = new Promise<void>(resolve => (arrive = resolve))
    const rule: HoldRule = { match, gate, arrive, waiting: 0 }
    this.#holds.add(rule)
    return {
      arrived,
      get waiting() {
        return rule.waiting
      },
      release: () => {
        this.#holds.delete(rule)
        release()
      },
    }
  }

  /** The URLs that redirects have given are refused with 403 from now on. */
  expireUrls(): void {
    this.#content.signature++
  }

  /** Tokens given so far are refused from now on. */
  expireTokens(): void {
    this.#content.tokenGeneration++
  }

  /** Requests of a kind, for counting. */
  requests(target: Target, method?: string): AccessEntry[] {
    return this.log.filter(e => e.target === target && (method === undefined || e.method === method))
  }

  async start(): Promise<void> {
    const port = this.#host === '' ? 0 : Number(this.#host.split(':')[1])
    this.#host = await listen(this.#server, port)
    if (!this.#store.listening) this.#content.storeHost = await listen(this.#store, 0)
    this.#content.host = this.#host
  }

  /** Connections are cut and refused; content, log and port stay. */
  async stop(): Promise<void> {
    await stopServer(this.#server)
  }

  async close(): Promise<void> {
    await Promise.all([stopServer(this.#server), stopServer(this.#store)])
  }

  #listener(answer: (req: http.IncomingMessage, body: Uint8Array) => Reply): http.Server {
    const onRequest = (req: http.IncomingMessage, res: http.ServerResponse): void => {
      this.#serve(req, res, answer).catch(() => res.destroy())
    }
    const { tls } = this.#options
    if (!tls) return http.createServer(onRequest)
    const identity = { cert: readFileSync(tls.certFile), key: readFileSync(tls.keyFile) }
    const ca = tls.clientCaFile === undefined ? {} : { ca: readFileSync(tls.clientCaFile), requestCert: true }
    return https.createServer({ ...identity, ...ca }, onRequest)
  }

  async #serve(
    req: http.IncomingMessage,
    res: http.ServerResponse,
    answer: (req: http.IncomingMessage, body: Uint8Array) => Reply,
  ): Promise<void> {
    const entry = this.#enter(req)
    const fault = this.#faultFor(entry)
    if (fault.reset === true) return void req.socket.destroy()
    const body = await readBody(req, bytes => this.#content.arriving(req, bytes), fault.cutRequestAfter)
    if (body === undefined) return void req.socket.destroy()
    for (const hold of [...this.#holds].filter(h => matches(h.match, entry))) {
      hold.waiting++
      hold.arrive()
      await hold.gate
      hold.waiting--
    }
    if (fault.ignoreRange === true) delete req.headers.range
    const own: Reply =
      fault.status === undefined
        ? answer(req, body)
        : { status: fault.status, headers: {}, body: Buffer.alloc(0) }
    const reply: Reply = {
      status: own.status,
      headers: { ...own.headers, ...fault.headers },
      body: fault.body === undefined ? own.body : Buffer.from(fault.body),
    }
    if (fault.alter) reply.body = fault.alter(reply.body)
    entry.status = reply.status
    await send(res, req.method ?? 'GET', reply, fault, bytes => (entry.bytes += bytes))
  }

  #enter(req: http.IncomingMessage): AccessEntry {
    const url = new URL(req.url ?? '/', 'http://registry')
    const { target, digest } = this.#content.classify(url)
    const entry: AccessEntry = {
      target,
      method: req.method ?? '',
      path: url.pathname,
      query: url.searchParams,
      digest,
      range: req.headers.range,
      headers: { ...req.headers },
      status: 0,
      bytes: 0,
    }
    this.log.push(entry)
    return entry
  }

  #faultFor(entry: AccessEntry): Fault {
    for (const rule of [...this.#rules].reverse()) {
      if (rule.left === 0 || !matches(rule.match, entry)) continue
      if (rule.skip > 0) {
        rule.skip--
        continue
      }
      rule.left--
      rule.hits++
      return rule.fault
    }
    return {}
  }
}

/** Starts one that ends with `t`. */
export async function startFaultRegistry(
  t: Pick<Test, 'teardown'>,
  options: FaultRegistryOptions = {},
): Promise<FaultRegistry> {
  const registry = new FaultRegistry(options)
  t.teardown(() => registry.close())
  await registry.start()
  return registry
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

function matches(match: Match, entry: AccessEntry): boolean {
  if (match.target !== undefined && match.target !== entry.target) return false
  if (match.method !== undefined && match.method !== entry.method) return false
  if (match.digest !== undefined && match.digest !== entry.digest) return false
  return match.where === undefined || match.where(entry)
}

async function listen(server: http.Server, port: number): Promise<string> {
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function stopServer(server: http.Server): Promise<void> {
  if (!server.listening) return
  const closed = once(server, 'close')
  server.close()
  server.closeAllConnections()
  await closed
}

/** Undefined when it is to be cut after some bytes. */
async function readBody(
  req: http.IncomingMessage,
  arriving: (bytes: Uint8Array) => void,
  cutAfter = Infinity,
): Promise<Uint8Array | undefined> {
  const pieces: Uint8Array[] = []
  let length = 0
  for await (const piece of req as AsyncIterable<Uint8Array>) {
    const kept = piece.subarray(0, Math.max(0, cutAfter - length))
    length += piece.length
    arriving(kept)
    if (length >= cutAfter) return undefined
    pieces.push(piece)
  }
  return Buffer.concat(pieces)
}
