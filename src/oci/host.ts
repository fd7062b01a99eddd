/** Hosts, and which of them may be spoken to without TLS. */

export type Scheme = 'http' | 'https'

/** True for `localhost`, 127.0.0.0/8 and ::1, with or without a port: what docker trusts without TLS too. */
export function isLoopbackHost(host: string): boolean {
  const name = hostnameOf(host).toLowerCase()
  if (name === 'localhost' || name === '::1') return true
  return /^127\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}$/.test(name)
}

/** The host without port and without the brackets of an IPv6 address. */
export function hostnameOf(host: string): string {
  const bracketed = /^\[([^\]]*)\]/.exec(host)
  if (bracketed) return bracketed[1] ?? ''
  const colon = host.indexOf(':')
  return colon >= 0 && colon === host.lastIndexOf(':') ? host.slice(0, colon) : host
}

/** True when `url` leads to `host`, whatever the case and whether or not the scheme's own port is written. */
export function leadsTo(url: URL, host: string): boolean {
  return URL.canParse(`${url.protocol}//${host}`) && new URL(`${url.protocol}//${host}`).host === url.host
}

/** A URL fit for messages and logs: no user, no query, no fragment; those carry signatures and tokens. */
export function safeUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}`
}
