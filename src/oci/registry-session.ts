/**
 * Talking to one registry as one user: scheme, authorization, the registry's own redirects. One call is one attempt.
 *
 * Scheme: what the configuration says; without a word https, but for loopback hosts, which docker too trusts without
 * TLS: they are asked once, without credentials, over plain HTTP first and over TLS if that is not what they speak.
 */
import { fault, isFault } from '../common/fault.js'
import { Authorizer } from './authorizer.js'
import type { CredentialSource } from './credentials.js'
import { isLoopbackHost, safeUrl, type Scheme } from './host.js'
import { HttpClient, type HttpClientOptions, type HttpRequest, type Lane } from './http-client.js'
import type { HttpResponse } from './http-response.js'
import { statusFault } from './status-fault.js'

export interface RegistrySessionOptions extends HttpClientOptions {
  /** Undefined decides by host: see above. */
  readonly scheme?: Scheme
  readonly credentials?: CredentialSource
}

export interface SessionRequest {
  readonly method: HttpRequest['method']
  /** Below `/v2/`, or a whole URL on the registry's own host (the Location of an upload). */
  readonly path: string | URL
  /** Rights the request needs: `repository:<name>:pull`. */
  readonly scopes: readonly string[]
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array | string
  readonly lane?: Lane | undefined
  readonly signal?: AbortSignal | undefined
  /** In words, for errors. */
  readonly subject: string
}

export class RegistrySession {
  readonly host: string
  readonly http: HttpClient
  readonly #options: RegistrySessionOptions
  readonly #authorizer: Authorizer
  #scheme: Promise<Scheme> | undefined

  constructor(options: RegistrySessionOptions) {
    this.#options = options
    this.host = options.host
    this.http = new HttpClient(options)
    this.#authorizer = new Authorizer(options.host, this.http, options.credentials)
  }

  /** Sends with authorization; any answer but a final 401 is returned. @throws REGISTRY_UNAUTHORIZED, transport faults */
  async send(request: SessionRequest): Promise<HttpResponse> {
    const url = await this.#url(request.path)
    const offered = await this.#authorizer.header(request.scopes)
    let response = await this.#sendOnce(request, url, offered)
    if (response.status !== 401) return response
    if (offered !== undefined) {
      this.#authorizer.refused(offered)
      // Asked again without: some registries answer an expired token with a misleading challenge.
      await response.discard()
      response = await this.#sendOnce(request, url, undefined)
      if (response.status !== 401) return response
    }
    const challenge = response.header('www-authenticate')
    if (challenge === undefined) throw await statusFault(response, request.subject)
    const header = await this.#authorizer.answer(challenge, request.scopes, url.protocol === 'http:')
    if (header === undefined) throw await statusFault(response, request.subject)
    await response.discard()
    response = await this.#sendOnce(request, url, header)
    if (response.status === 401) {
      this.#authorizer.refused(header)
      throw await statusFault(response, request.subject)
    }
    return response
  }

  /** True when `url` may be asked: TLS, or a loopback host, or the registry itself is spoken to in the clear. */
  async checkRedirect(url: URL, allowPlain: boolean): Promise<void> {
    if (url.protocol === 'https:') return
    const plain = allowPlain || isLoopbackHost(url.host) || (await this.scheme()) === 'http'
    if (url.protocol === 'http:' && plain) return
    throw fault(
      'REGISTRY_PLAIN_HTTP',
      `${this.host} redirects to ${safeUrl(url)}, which is not https: set blob_url_scheme to "https" or "http"`,
    )
  }

  /** http or https: configured, or found out by one request without credentials and remembered. */
  scheme(): Promise<Scheme> {
    if (this.#scheme === undefined) {
      const { scheme, host } = this.#options
      const known = scheme ?? (isLoopbackHost(host) ? undefined : 'https')
      const asked = known === undefined ? this.#probe() : Promise.resolve(known)
      this.#scheme = asked
      asked.catch(() => (this.#scheme = undefined))
    }
    return this.#scheme
  }

  close(): Promise<void> {
    return this.http.close()
  }

  async #url(path: string | URL): Promise<URL> {
    const scheme = await this.scheme()
    if (typeof path === 'string') return new URL(`${scheme}://${this.host}/v2/${path}`)
    // Behind a TLS proxy registries name themselves with http; the scheme that works is the one we came by.
    const url = new URL(path)
    url.protocol = `${scheme}:`
    return url
  }

  #sendOnce(request: SessionRequest, url: URL, authorization: string | undefined): Promise<HttpResponse> {
    return this.http.send({
      method: request.method,
      url,
      headers: { ...request.headers, ...(authorization === undefined ? {} : { authorization }) },
      ...(request.body === undefined ? {} : { body: request.body }),
      lane: request.lane ?? 'demand',
      signal: request.signal,
    })
  }

  async #probe(): Promise<Scheme> {
    const ping = (scheme: Scheme): Promise<HttpResponse> =>
      this.http.send({ method: 'GET', url: new URL(`${scheme}://${this.host}/v2/`) })
    let plainFailure: unknown
    try {
      const response = await ping('http')
      await response.discard()
      // A TLS server that understands HTTP enough to say so answers 400.
      if (response.status !== 400) return 'http'
    } catch (err) {
      if (isFault(err, 'CANCELLED') || isRefused(err)) throw err
      plainFailure = err
    }
    try {
      await (await ping('https')).discard()
      return 'https'
    } catch (err) {
      // A server with a certificate we do not trust does speak TLS: the next request tells what is wrong with it.
      if (isFault(err, 'REGISTRY_TLS')) return 'https'
      throw isFault(err, 'REGISTRY_PLAIN_HTTP') ? (plainFailure ?? err) : err
    }
  }
}

function isRefused(err: unknown): boolean {
  return isFault(err) && err.context['errno'] === 'ECONNREFUSED'
}
