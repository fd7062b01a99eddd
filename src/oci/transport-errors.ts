/** Turns what sockets, TLS and undici throw into faults that an operator can act on. */
import { fault, Fault } from '../common/fault.js'

const CERTIFICATE_ERRORS = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'CERT_UNTRUSTED',
  'CERT_REJECTED',
  'CERT_SIGNATURE_FAILURE',
])

const TIMEOUT_ERRORS = new Set([
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'ETIMEDOUT',
])

/** `where` is the URL without its query. */
export function transportFault(err: unknown, where: string, signal: AbortSignal | undefined): Fault {
  if (signal?.aborted === true) return cancelled(where, signal.reason)
  if (err instanceof Fault) return err
  const code = codeOf(err)
  const text = err instanceof Error ? err.message : String(err)
  const options = { cause: err, context: { url: where, errno: code } }
  if (CERTIFICATE_ERRORS.has(code)) {
    return fault(
      'REGISTRY_TLS',
      `${where} shows a certificate that nobody vouches for (${code}): add its CA's PEM file to ca_cert_files`,
      options,
    )
  }
  if (code === 'CERT_HAS_EXPIRED' || code === 'CERT_NOT_YET_VALID') {
    const remedy = 'renew it, or set this node’s clock'
    return fault('REGISTRY_TLS', `the certificate of ${where} is out of date (${code}): ${remedy}`, options)
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    const remedy = 'use a name that its certificate carries'
    return fault('REGISTRY_TLS', `the certificate of ${where} is for another name: ${remedy}`, options)
  }
  if (
    code === 'ERR_SSL_WRONG_VERSION_NUMBER' ||
    code === 'ERR_SSL_PACKET_LENGTH_TOO_LONG' ||
    isNotTls(text)
  ) {
    return fault(
      'REGISTRY_PLAIN_HTTP',
      `${where} does not speak TLS: if it is meant to be plain HTTP, set scheme = "http" for this host`,
      options,
    )
  }
  if (code.startsWith('ERR_SSL_') || code.startsWith('ERR_TLS_') || code === 'EPROTO') {
    const remedy = 'check its TLS versions and the client certificate it wants'
    return fault('REGISTRY_TLS', `TLS with ${where} failed (${code || text}): ${remedy}`, options)
  }
  if (TIMEOUT_ERRORS.has(code))
    return fault(
      'REGISTRY_UNAVAILABLE',
      `${where} did not answer in time (${code}): check the network`,
      options,
    )
  if (code.startsWith('HPE_') || (err instanceof Error && err.name === 'HTTPParserError'))
    return fault('REGISTRY_PROTOCOL', `${where} answered with something that is not HTTP`, options)
  return fault(
    'REGISTRY_UNAVAILABLE',
    `${where} cannot be reached (${code || text}): check that it runs`,
    options,
  )
}

export function cancelled(where: string, reason: unknown): Fault {
  return fault('CANCELLED', `the request to ${where} was cancelled`, { cause: reason })
}

function codeOf(err: unknown): string {
  if (!(err instanceof Error) || !('code' in err)) return ''
  const inner = err.cause
  // undici wraps some socket errors; the socket's own word says more.
  if (inner instanceof Error && 'code' in inner && typeof inner.code === 'string') return inner.code
  return typeof err.code === 'string' ? err.code : ''
}

function isNotTls(text: string): boolean {
  return /wrong version number|packet length too long|http request/i.test(text)
}
