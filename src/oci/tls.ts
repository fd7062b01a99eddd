/** Trust and client certificates for registries. */
import { readFileSync } from 'node:fs'
import { createSecureContext, rootCertificates, type SecureContext } from 'node:tls'
import { fault } from '../common/fault.js'

export interface TlsOptions {
  /** PEM files of certificates trusted besides those of Node and of the system. */
  readonly caFiles?: readonly string[]
  /** Accepts any certificate. */
  readonly skipVerify?: boolean
  /** Client certificate and key, shown to the registry's own host only. */
  readonly certFile?: string
  readonly keyFile?: string
}

/** Where distributions keep the bundle that the other programs of a node trust. */
const SYSTEM_BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
]

/**
 * Builds what TLS needs to know once, not per connection: parsing some hundred roots takes milliseconds each time.
 * Node's own list alone would miss the company CA that a node's administrator installed.
 * @throws CONFIG_INVALID when a file is missing or is not PEM
 */
export function createTlsContext(options: TlsOptions, withClientCertificate: boolean): SecureContext {
  const extra = (options.caFiles ?? []).map(path => readPem(path, 'CA certificate'))
  const { certFile, keyFile } = options
  const identity =
    withClientCertificate && certFile !== undefined && keyFile !== undefined
      ? { cert: readPem(certFile, 'client certificate'), key: readPem(keyFile, 'client key') }
      : {}
  try {
    return createSecureContext({ ca: [...rootCertificates, ...systemBundle(), ...extra], ...identity })
  } catch (err) {
    const files = [...(options.caFiles ?? []), certFile, keyFile].filter(file => file !== undefined)
    throw fault('CONFIG_INVALID', `one of ${files.join(', ')} is not a usable PEM file: check its content`, {
      cause: err,
    })
  }
}

function readPem(path: string, what: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (err) {
    throw fault('CONFIG_INVALID', `cannot read the ${what} file ${path}: check the path and its mode`, {
      cause: err,
    })
  }
}

function systemBundle(): string[] {
  const named = process.env['SSL_CERT_FILE']
  for (const path of named === undefined ? SYSTEM_BUNDLES : [named]) {
    try {
      return [readFileSync(path, 'utf8')]
    } catch {
      // A distribution has one of these files, a minimal image none; Node's own roots remain.
    }
  }
  return []
}
