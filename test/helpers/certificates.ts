/** A certificate authority and a server certificate for 127.0.0.1, made by openssl. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'

export interface Certificates {
  caFile: string
  certFile: string
  keyFile: string
  /** A client certificate of the same authority. */
  clientCertFile: string
  clientKeyFile: string
}

/** Writes all files into `directory`. */
export function makeCertificates(directory: string): Certificates {
  const at = (name: string): string => path.join(directory, name)
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { stdio: 'pipe' })
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const caFiles = ['-keyout', at('ca.key'), '-out', at('ca.pem')]
  openssl('req', '-x509', ...newKey, '-days', '2', '-subj', '/CN=test authority', ...caFiles)
  writeFileSync(at('san'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
  const signed = (name: string): void => {
    const request = ['-keyout', at(`${name}.key`), '-out', at(`${name}.csr`)]
    openssl('req', ...newKey, '-subj', `/CN=${name}`, ...request)
    const authority = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial']
    const files = ['-in', at(`${name}.csr`), '-out', at(`${name}.pem`), '-extfile', at('san')]
    openssl('x509', '-req', '-days', '2', ...authority, ...files)
  }
  signed('server')
  signed('client')
  return {
    caFile: at('ca.pem'),
    certFile: at('server.pem'),
    keyFile: at('server.key'),
    clientCertFile: at('client.pem'),
    clientKeyFile: at('client.key'),
  }
}
