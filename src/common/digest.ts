import { createHash } from 'node:crypto'
import { Blake3Hasher, blake3 } from '@napi-rs/blake-hash'
import { fault } from './fault.js'

/** Chunk digest algorithms of RAFS (rafs.md 4.1); the numbers are the on-disk ids of a blob table entry. */
export const DIGESTERS = { blake3: 0, sha256: 1 } as const
export type Digester = keyof typeof DIGESTERS

/** The 32-byte digest of `bytes`. */
export function digestOf(digester: Digester, bytes: Uint8Array): Uint8Array {
  return digester === 'blake3' ? blake3(asBuffer(bytes)) : createHash('sha256').update(bytes).digest()
}

/** The same as 64 hex digits. Of a few bytes it is faster: a buffer from native code costs more than their digest. */
export function hexDigestOf(digester: Digester, bytes: Uint8Array): string {
  if (digester === 'sha256') return createHash('sha256').update(bytes).digest('hex')
  blake3Hasher.reset()
  return blake3Hasher.update(asBuffer(bytes)).digest('hex')
}

const blake3Hasher = new Blake3Hasher()

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
}

/** `sha256:…` of some bytes, as manifests name them. */
export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

const OCI_DIGEST = /^sha256:[0-9a-f]{64}$/

/** True for `sha256:` and 64 lower-case hex digits: the only digests that a blob id can be made of. */
export function isOciDigest(text: string): boolean {
  return OCI_DIGEST.test(text)
}

/** The 64 hex digits of an OCI digest. @throws MANIFEST_INVALID */
export function digestHex(digest: string): string {
  if (!isOciDigest(digest))
    throw fault('MANIFEST_INVALID', `${JSON.stringify(digest)} is not a sha256 digest`)
  return digest.slice(7)
}

/** A blob id as it stands in device tables and file names: 64 lower-case hex digits. */
export function isBlobId(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text)
}
