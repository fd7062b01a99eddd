/** What a registry may be asked with. Sources of credentials are tried in order; the first that knows the host wins. */
import type { Logger } from '../common/log.js'
import { fault } from '../common/fault.js'

export type Credential =
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  /** A ready-made bearer token (`registry_token`). */
  | { readonly kind: 'bearer'; readonly token: string }
  /** An OAuth refresh token: exchanged for an access token at the token server. */
  | { readonly kind: 'identity'; readonly token: string }

/** One place that credentials come from. */
export interface CredentialSource {
  /** For log lines. */
  readonly name: string
  /** The credential for a registry host; undefined when this source knows none. @throws CREDENTIALS_INVALID */
  find(host: string): Promise<Credential | undefined>
}

/** Asks each source in turn. A source that fails is reported and passed over, so that one broken helper stops nobody. */
export function credentialChain(sources: readonly CredentialSource[], logger: Logger): CredentialSource {
  return {
    name: sources.map(source => source.name).join(', '),
    async find(host) {
      for (const source of sources) {
        try {
          const credential = await source.find(host)
          if (credential) return credential
        } catch (err) {
          logger.warn({ err, source: source.name, host }, 'credential source failed')
        }
      }
      return undefined
    },
  }
}

/** The same credential for whichever host: what a backend's own configuration gives. */
export function fixedCredential(credential: Credential): CredentialSource {
  return { name: 'configuration', find: () => Promise.resolve(credential) }
}

/** `Basic …` as HTTP wants it. */
export function basicHeader(credential: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${credential.username}:${credential.password}`, 'utf8').toString('base64')}`
}

/**
 * Reads the base64 of `user:password` that docker and nydus configurations carry. `where` names the place, never the
 * value. @throws CREDENTIALS_INVALID
 */
export function parseBasicAuth(text: string, where: string): Credential {
  const trimmed = text.trim()
  const wellFormed = /^[A-Za-z0-9+/]+={0,2}$/.test(trimmed)
  const decoded = Buffer.from(trimmed, 'base64')
  const plain = decoded.toString('utf8')
  const colon = plain.indexOf(':')
  if (!wellFormed || colon < 0 || !Buffer.from(plain, 'utf8').equals(decoded))
    throw fault('CREDENTIALS_INVALID', `${where} is not the base64 of user:password: write it anew`)
  const username = plain.slice(0, colon)
  // Docker pads with NULs on some platforms.
  const password = plain.slice(colon + 1).replace(/\0+$/, '')
  // Without a user name the password is a bearer token (snapshotter.md 5.14).
  return username === '' ? { kind: 'bearer', token: password } : { kind: 'basic', username, password }
}
