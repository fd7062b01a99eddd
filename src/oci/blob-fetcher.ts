/**
 * Reading blobs of one registry: ranges and streams, redirects to a blob store, bodies resumed where they broke off.
 *
 * A registry that redirects does so with a signed URL, which is used for the blob until the blob store refuses it.
 * The registry's authorization goes to the registry alone.
 */
import { createHash } from 'node:crypto'
import { fault } from '../common/fault.js'
import { leadsTo, safeUrl, type Scheme } from './host.js'
import type { Lane } from './http-client.js'
import type { HttpResponse } from './http-response.js'
import { RangeBody, rangeHeader, totalOf } from './range-body.js'
import type { RegistrySession, SessionRequest } from './registry-session.js'
import { Retry, retrying, type RetryPolicy } from './retry.js'
import { statusFault } from './status-fault.js'

export interface FetchOptions {
  /** Default `demand`. */
  readonly lane?: Lane
  readonly signal?: AbortSignal | undefined
  /** Where a range is to be put: as long as the range. */
  readonly into?: Uint8Array | undefined
  /** Told of a range while it arrives: the first `done` bytes of its buffer are there. */
  readonly onBytes?: ((bytes: Uint8Array, done: number) => void) | undefined
}

/** Overrides of what redirects name: upstream's `blob_url_scheme` and `blob_redirected_host`. */
export interface RedirectOverrides {
  readonly scheme?: Scheme
  readonly host?: string
}

export interface BlobFetcherOptions {
  readonly session: RegistrySession
  readonly retry: Record<Lane, RetryPolicy>
  /** Aborts when the client is closed. */
  readonly closed: AbortSignal
  readonly redirect?: RedirectOverrides
}

const MAX_HOPS = 5
const MAX_REMEMBERED_REDIRECTS = 4096

export class BlobFetcher {
  readonly #session: RegistrySession
  readonly #options: BlobFetcherOptions
  readonly #redirects = new Map<string, URL>()

  constructor(options: BlobFetcherOptions) {
    this.#session = options.session
    this.#options = options
  }

  /** Exactly `length` bytes, in `options.into` or in a buffer of their own. */
  async range(
    repository: string,
    digest: string,
    offset: number,
    length: number,
    options: FetchOptions = {},
  ): Promise<Uint8Array> {
    // Not from the shared pool: such a buffer can be handed to a worker without a copy. Every byte of it is set below.
    const out = options.into ?? Buffer.allocUnsafeSlow(length)
    const retry = new Retry(this.#policy(options), [options.signal, this.#options.closed])
    let done = 0
    while (done < length) {
      try {
        const { response, body } = await this.#openRange(
          repository,
          digest,
          offset + done,
          length - done,
          options,
        )
        await response.drain(piece => {
          const wanted = body.take(piece)
          out.set(wanted, done)
          done += wanted.length
          retry.moved(wanted.length)
          options.onBytes?.(out, done)
          return !body.enough
        })
        body.ended()
      } catch (err) {
        await retry.after(err)
      }
    }
    return out
  }

  /**
   * The whole blob. Its digest and size are known only at the end: what was yielded counts when the stream has ended
   * without an error. @throws DIGEST_MISMATCH at the end, and what `range` throws
   */
  async *stream(
    repository: string,
    blob: { digest: string; size?: number },
    options: FetchOptions = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const hash = createHash('sha256')
    let size = 0
    for await (const piece of this.#resumed(repository, blob.digest, options)) {
      hash.update(piece)
      size += piece.length
      if (blob.size !== undefined && size > blob.size) break
      yield piece
    }
    const found = `sha256:${hash.digest('hex')}`
    if (found === blob.digest && (blob.size === undefined || blob.size === size)) return
    throw fault(
      'DIGEST_MISMATCH',
      `${this.#subject(repository, blob.digest)} came as ${size} bytes with digest ${found}: push it again`,
      { context: { expected: blob.digest, found, expectedBytes: blob.size, sizeBytes: size } },
    )
  }

  /** Stored size in bytes. @throws REGISTRY_NOT_FOUND, REGISTRY_* */
  async size(repository: string, digest: string, options: FetchOptions = {}): Promise<number> {
    const subject = this.#subject(repository, digest)
    return retrying(this.#policy(options), [options.signal, this.#options.closed], async () => {
      const head = await this.#follow(this.#request('HEAD', repository, digest, {}, options))
      const { status } = head.response
      await head.response.discard()
      if (status === 200 && head.response.contentLength !== undefined) return head.response.contentLength
      // A signed URL may be good for GET alone, and some proxies drop the length of a HEAD.
      if (status !== 200 && !head.redirected) throw await statusFault(head.response, subject)
      const probe = await this.#open(repository, digest, { range: 'bytes=0-0' }, options)
      const total = totalOf(probe)
      probe.discardNow()
      if (total === undefined)
        throw fault('REGISTRY_PROTOCOL', `${subject}: the registry does not tell its size`, {
          retryable: false,
        })
      return total
    })
  }

  async *#resumed(
    repository: string,
    digest: string,
    options: FetchOptions,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const retry = new Retry(this.#policy(options), [options.signal, this.#options.closed])
    let at = 0
    let end: number | undefined
    while (end === undefined || at < end) {
      try {
        const length = end === undefined ? undefined : end - at
        const { response, body } = await this.#openRange(repository, digest, at, length, options)
        const total = totalOf(response)
        for await (const piece of response.pieces()) {
          const wanted = body.take(piece)
          at += wanted.length
          // The whole length is known from the first answer; a later one only continues it.
          end ??= total
          retry.moved(wanted.length)
          if (wanted.length > 0) yield wanted
          if (body.enough) break
        }
        body.ended()
        if (end === undefined || total === 0) return
      } catch (err) {
        await retry.after(err)
      }
    }
  }

  /** One attempt at the bytes from `offset`, to the end of the blob when `length` is undefined. */
  async #openRange(
    repository: string,
    digest: string,
    offset: number,
    length: number | undefined,
    options: FetchOptions,
  ): Promise<{ response: HttpResponse; body: RangeBody }> {
    const headers = offset === 0 && length === undefined ? {} : { range: rangeHeader(offset, length) }
    const response = await this.#open(repository, digest, headers, options)
    try {
      return { response, body: new RangeBody(response, offset, length, this.#subject(repository, digest)) }
    } catch (err) {
      response.discardNow()
      throw err
    }
  }

  /** One attempt at a GET that answers 200 or 206. */
  async #open(
    repository: string,
    digest: string,
    headers: Record<string, string>,
    options: FetchOptions,
  ): Promise<HttpResponse> {
    const subject = this.#subject(repository, digest)
    const key = `${repository}@${digest}`
    const known = this.#redirects.get(key)
    if (known) {
      const response = await this.#openKnown(key, known, headers, options)
      if (response) return response
    }
    const { response, redirected } = await this.#follow(
      this.#request('GET', repository, digest, headers, options),
    )
    if (response.status !== 200 && response.status !== 206) throw await statusFault(response, subject)
    if (redirected) this.#remember(key, response.url)
    return response
  }

  /** Undefined when the blob store does not honour the URL any more: the registry is to be asked for a new one. */
  async #openKnown(
    key: string,
    url: URL,
    headers: Record<string, string>,
    options: FetchOptions,
  ): Promise<HttpResponse | undefined> {
    let response
    try {
      response = await this.#session.http.send({
        method: 'GET',
        url,
        headers: { ...IDENTITY, ...headers },
        lane: options.lane ?? 'demand',
        signal: options.signal,
      })
    } catch (err) {
      this.#redirects.delete(key)
      throw err
    }
    const { status } = response
    if (status === 200 || status === 206) return response
    // Stores say "expired" with 400, 401, 403, 404 or 410; 416 is about the range, 408 and 429 are about us.
    const isAboutUrl = status < 500 && ![408, 416, 425, 429].includes(status)
    if (!isAboutUrl) throw await statusFault(response, safeUrl(url))
    this.#redirects.delete(key)
    await response.discard()
    return undefined
  }

  async #follow(request: SessionRequest): Promise<{ response: HttpResponse; redirected: boolean }> {
    let response = await this.#session.send(request)
    for (let hop = 0; isRedirect(response.status); hop++) {
      if (hop === MAX_HOPS)
        throw fault('REGISTRY_PROTOCOL', `${request.subject}: more than ${MAX_HOPS} redirects`, {
          retryable: false,
        })
      const url = await this.#target(response, request.subject)
      await response.discard()
      const own = leadsTo(url, this.#session.host)
      response = own
        ? await this.#session.send({ ...request, path: url })
        : await this.#session.http.send({
            method: request.method,
            url,
            ...(request.headers === undefined ? {} : { headers: request.headers }),
            lane: request.lane ?? 'demand',
            signal: request.signal,
          })
      // The registry's own host wants its authorization each time: only other hosts' URLs are worth remembering.
      if (!isRedirect(response.status)) return { response, redirected: !own }
    }
    return { response, redirected: false }
  }

  async #target(response: HttpResponse, subject: string): Promise<URL> {
    const location = response.header('location') ?? ''
    if (location === '' || !URL.canParse(location, response.url.href)) {
      throw fault('REGISTRY_PROTOCOL', `${subject}: redirected without a usable Location`, {
        retryable: false,
      })
    }
    const url = new URL(location, response.url)
    const { scheme, host } = this.#options.redirect ?? {}
    if (scheme !== undefined) url.protocol = `${scheme}:`
    if (host !== undefined) url.host = host
    await this.#session.checkRedirect(url, scheme === 'http')
    return url
  }

  #request(
    method: 'GET' | 'HEAD',
    repository: string,
    digest: string,
    headers: Record<string, string>,
    options: FetchOptions,
  ): SessionRequest {
    return {
      method,
      path: `${repository}/blobs/${digest}`,
      scopes: [`repository:${repository}:pull`],
      headers: { ...IDENTITY, ...headers },
      lane: options.lane,
      signal: options.signal,
      subject: this.#subject(repository, digest),
    }
  }

  #remember(key: string, url: URL): void {
    if (this.#redirects.size >= MAX_REMEMBERED_REDIRECTS) {
      const oldest = this.#redirects.keys().next()
      if (!oldest.done) this.#redirects.delete(oldest.value)
    }
    this.#redirects.set(key, url)
  }

  #policy(options: FetchOptions): RetryPolicy {
    return this.#options.retry[options.lane ?? 'demand']
  }

  #subject(repository: string, digest: string): string {
    return `blob ${digest} of ${this.#session.host}/${repository}`
  }
}

const IDENTITY = { 'accept-encoding': 'identity' }

function isRedirect(status: number): boolean {
  return status === 301 || status === 302 || status === 303 || status === 307 || status === 308
}
