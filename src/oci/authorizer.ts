/**
 * Which Authorization header a request to one registry carries. The first request goes without; the registry's
 * challenge tells the rest, and is remembered.
 */
import { fault } from '../common/fault.js'
import { type Challenge, parseChallenges } from './challenge.js'
import { basicHeader, type Credential, type CredentialSource } from './credentials.js'
import { isLoopbackHost, safeUrl } from './host.js'
import type { HttpClient } from './http-client.js'
import { TokenCache } from './token.js'

type Method = { kind: 'basic' } | { kind: 'bearer'; realm: URL; service: string }

export class Authorizer {
  readonly #host: string
  readonly #credentials: CredentialSource | undefined
  readonly #tokens: TokenCache
  #method: Method | undefined
  #credential: Promise<Credential | undefined> | undefined

  constructor(host: string, http: HttpClient, credentials: CredentialSource | undefined) {
    this.#host = host
    this.#credentials = credentials
    this.#tokens = new TokenCache(http)
  }

  /** The header to try first; undefined before the first challenge, unless a ready-made token is configured. */
  async header(scopes: readonly string[]): Promise<string | undefined> {
    const credential = await this.#find()
    if (credential?.kind === 'bearer') return `Bearer ${credential.token}`
    return this.#method === undefined ? undefined : this.#headerBy(this.#method, scopes, credential)
  }

  /**
   * The header that answers a challenge; undefined when there is nothing to answer with. `plain` tells that the
   * challenge came over plain HTTP. @throws REGISTRY_PLAIN_HTTP rather than send a password in the clear
   */
  async answer(challenge: string, scopes: readonly string[], plain: boolean): Promise<string | undefined> {
    const challenges = parseChallenges(challenge)
    const bearer = challenges.find(c => c.scheme === 'bearer' && c.parameters.has('realm'))
    const basic = challenges.some(c => c.scheme === 'basic')
    if (bearer === undefined && !basic) return undefined
    this.#method = bearer ? this.#bearerMethod(bearer, plain) : { kind: 'basic' }
    // Who had no credentials may have got some.
    if ((await this.#find()) === undefined) this.#credential = undefined
    return this.#headerBy(this.#method, scopes, await this.#find())
  }

  /** `header` was refused: its token is dropped, and the credentials are looked up afresh. */
  refused(header: string): void {
    this.#credential = undefined
    this.#tokens.forget(header.replace(/^Bearer /, ''))
  }

  async #headerBy(
    method: Method,
    scopes: readonly string[],
    credential: Credential | undefined,
  ): Promise<string | undefined> {
    if (credential?.kind === 'bearer') return `Bearer ${credential.token}`
    if (method.kind === 'basic') return credential?.kind === 'basic' ? basicHeader(credential) : undefined
    const { realm, service } = method
    return `Bearer ${await this.#tokens.get({ realm, service, scopes: [...scopes].sort(), credential })}`
  }

  #bearerMethod(challenge: Challenge, plain: boolean): Method {
    const text = challenge.parameters.get('realm') ?? ''
    if (!URL.canParse(text))
      throw fault('REGISTRY_PROTOCOL', `${this.#host} names a token server that is no URL`, {
        retryable: false,
      })
    const realm = new URL(text)
    const mayBePlain = plain || isLoopbackHost(realm.host)
    if (realm.protocol !== 'https:' && !(realm.protocol === 'http:' && mayBePlain)) {
      throw fault(
        'REGISTRY_PLAIN_HTTP',
        `${this.#host} names the token server ${safeUrl(realm)}, which is not https: credentials are not sent there`,
      )
    }
    return { kind: 'bearer', realm, service: challenge.parameters.get('service') ?? '' }
  }

  #find(): Promise<Credential | undefined> {
    if (this.#credential === undefined) {
      const asked = this.#credentials?.find(this.#host) ?? Promise.resolve(undefined)
      this.#credential = asked
      asked.catch(() => (this.#credential = undefined))
    }
    return this.#credential
  }
}
