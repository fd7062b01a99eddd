/**
 * Bearer tokens from a registry's token server (distribution's token specification), one per set of scopes, kept
 * until shortly before they expire. However many ask for the same token, one request is made.
 */
import { fault } from '../common/fault.js'
import { basicHeader, type Credential } from './credentials.js'
import { safeUrl } from './host.js'
import type { HttpClient } from './http-client.js'
import type { HttpResponse } from './http-response.js'
import { statusFault } from './status-fault.js'

export interface TokenRequest {
  readonly realm: URL
  readonly service: string
  /** `repository:<name>:pull,push`, sorted. */
  readonly scopes: readonly string[]
  readonly credential: Credential | undefined
}

interface Token {
  readonly value: string
  readonly usableUntil: number
}

interface Entry {
  readonly pending: Promise<Token>
  token?: Token
}

const CLIENT_ID = 'nydus-ts'
/** What the specification gives a token that names no lifetime. */
const DEFAULT_LIFETIME_S = 60
const MAX_TOKENS = 256
const MAX_ANSWER_BYTES = 1 << 20

export class TokenCache {
  readonly #http: HttpClient
  readonly #tokens = new Map<string, Entry>()

  constructor(http: HttpClient) {
    this.#http = http
  }

  /** @throws REGISTRY_UNAUTHORIZED, REGISTRY_UNAVAILABLE, REGISTRY_PROTOCOL */
  async get(request: TokenRequest): Promise<string> {
    const key = JSON.stringify([request.realm.href, request.service, request.scopes])
    let entry = this.#tokens.get(key)
    if (entry?.token && entry.token.usableUntil <= Date.now()) entry = undefined
    return (await (entry ?? this.#begin(key, request)).pending).value
  }

  /** Drops a token that the registry refused; others, fetched since, stay. */
  forget(value: string): void {
    for (const [key, entry] of this.#tokens) if (entry.token?.value === value) this.#tokens.delete(key)
  }

  #begin(key: string, request: TokenRequest): Entry {
    if (this.#tokens.size >= MAX_TOKENS) {
      const oldest = this.#tokens.keys().next()
      if (!oldest.done) this.#tokens.delete(oldest.value)
    }
    const entry: Entry = { pending: this.#fetch(request) }
    this.#tokens.set(key, entry)
    entry.pending.then(
      token => (entry.token = token),
      () => {
        // A failure is not remembered: the next request asks again.
        if (this.#tokens.get(key) === entry) this.#tokens.delete(key)
      },
    )
    return entry
  }

  async #fetch(request: TokenRequest): Promise<Token> {
    const first =
      request.credential?.kind === 'identity' ? await this.#post(request) : await this.#get(request)
    // Servers that know the OAuth form only answer 404 or 405 to GET.
    const refused = first.status === 404 || first.status === 405
    const answer = refused && request.credential?.kind === 'basic' ? await this.#again(first, request) : first
    if (answer.status !== 200) throw await statusFault(answer, `the token server of ${request.service}`)
    return parseToken(await answer.bytes(MAX_ANSWER_BYTES), request.realm)
  }

  async #again(first: HttpResponse, request: TokenRequest): Promise<HttpResponse> {
    await first.discard()
    return this.#post(request)
  }

  #get(request: TokenRequest): Promise<HttpResponse> {
    const url = new URL(request.realm)
    if (request.service !== '') url.searchParams.set('service', request.service)
    for (const scope of request.scopes) url.searchParams.append('scope', scope)
    const { credential } = request
    const headers: Record<string, string> = {}
    if (credential?.kind === 'basic') {
      url.searchParams.set('account', credential.username)
      headers['authorization'] = basicHeader(credential)
    }
    return this.#http.send({ method: 'GET', url, headers })
  }

  #post(request: TokenRequest): Promise<HttpResponse> {
    const { credential } = request
    const form = new URLSearchParams({ service: request.service, client_id: CLIENT_ID })
    if (request.scopes.length > 0) form.set('scope', request.scopes.join(' '))
    if (credential?.kind === 'identity') {
      form.set('grant_type', 'refresh_token')
      form.set('refresh_token', credential.token)
    } else if (credential?.kind === 'basic') {
      form.set('grant_type', 'password')
      form.set('username', credential.username)
      form.set('password', credential.password)
    }
    return this.#http.send({
      method: 'POST',
      url: request.realm,
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: form.toString(),
    })
  }
}

function parseToken(bytes: Uint8Array, realm: URL): Token {
  const where = safeUrl(realm)
  let answer: unknown
  try {
    answer = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch {
    throw fault('REGISTRY_PROTOCOL', `the token server ${where} did not answer with JSON`, {
      retryable: false,
    })
  }
  const fields = typeof answer === 'object' && answer !== null ? (answer as Record<string, unknown>) : {}
  const value = [fields['token'], fields['access_token']].find(
    text => typeof text === 'string' && text !== '',
  )
  // A token goes into a header: what no header can carry is refused here, and not shown.
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value))
    throw fault('REGISTRY_PROTOCOL', `the token server ${where} answered without a token`, {
      retryable: false,
    })
  const told = fields['expires_in']
  const lifetimeMs = (typeof told === 'number' && told > 0 ? told : DEFAULT_LIFETIME_S) * 1000
  // Used until shortly before its end, so that it does not expire on its way.
  return { value, usableUntil: Date.now() + lifetimeMs - Math.min(20_000, lifetimeMs / 4) }
}
