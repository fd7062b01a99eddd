/**
 * One registry, as everything in the product talks to it (OCI distribution-spec 1.1): manifests, blobs, uploads.
 * Every call retries what may pass, checks what it got, and stops when its signal says so.
 */
import { createHash } from 'node:crypto'
import { fault } from '../common/fault.js'
import { isOciDigest } from '../common/digest.js'
import { BlobFetcher, type FetchOptions, type RedirectOverrides } from './blob-fetcher.js'
import { BlobUploader, type UploadedBlob, type UploadOptions, type UploadSession } from './blob-uploader.js'
import type { Scheme } from './host.js'
import type { Lane } from './http-client.js'
import type { HttpResponse } from './http-response.js'
import { type Descriptor, type Index, type Manifest, MAX_INDEX_BYTES, parseManifest } from './manifest.js'
import { ACCEPT_MANIFESTS, bareMediaType } from './media-types.js'
import { RegistrySession, type RegistrySessionOptions } from './registry-session.js'
import { BACKGROUND_RETRY, DEMAND_RETRY, retrying, type RetryPolicy } from './retry.js'
import { statusFault } from './status-fault.js'

export interface RegistryClientOptions extends RegistrySessionOptions {
  /** Retries of both lanes; default 3. Background requests retry once at most. */
  readonly retryLimit?: number
  /** Overrides of the rest of the retry policies. */
  readonly retry?: Partial<RetryPolicy>
  readonly redirect?: RedirectOverrides
  /** Bytes of one piece of an upload, held in memory; default 8 MiB. */
  readonly uploadPieceBytes?: number
}

export interface FetchedManifest {
  readonly descriptor: Descriptor
  /** As stored: what the digest is over. */
  readonly bytes: Uint8Array
  readonly content: Manifest | Index
}

export class RegistryClient {
  readonly host: string
  readonly #session: RegistrySession
  readonly #retry: Record<Lane, RetryPolicy>
  readonly #closed = new AbortController()
  readonly #blobs: BlobFetcher
  readonly #uploads: BlobUploader

  constructor(options: RegistryClientOptions) {
    this.host = options.host
    this.#session = new RegistrySession(options)
    this.#retry = retryPolicies(options)
    this.#blobs = new BlobFetcher({
      session: this.#session,
      retry: this.#retry,
      closed: this.#closed.signal,
      ...(options.redirect === undefined ? {} : { redirect: options.redirect }),
    })
    this.#uploads = new BlobUploader({
      session: this.#session,
      retry: this.#retry.demand,
      closed: this.#closed.signal,
      ...(options.uploadPieceBytes === undefined ? {} : { pieceBytes: options.uploadPieceBytes }),
    })
  }

  /** What the registry is spoken to with; found out where nobody said it. @throws REGISTRY_* when it does not answer */
  scheme(): Promise<Scheme> {
    return this.#session.scheme()
  }

  /** Checks that a registry answers and takes our credentials. */
  async ping(options: FetchOptions = {}): Promise<void> {
    await this.#retrying(options, async () => {
      const subject = `registry ${this.host}`
      const response = await this.#session.send({ method: 'GET', path: '', scopes: [], subject, ...options })
      if (response.status !== 200) throw await statusFault(response, subject)
      await response.discard()
    })
  }

  /**
   * What a tag or digest names, without its content: a HEAD where the registry answers that in full.
   * `selector` is a tag or a digest.
   */
  async resolve(repository: string, selector: string, options: FetchOptions = {}): Promise<Descriptor> {
    const subject = this.#manifestSubject(repository, selector)
    const found = await this.#retrying(options, async () => {
      const response = await this.#sendManifest('HEAD', repository, selector, options)
      await response.discard()
      if (response.status !== 200) throw await statusFault(response, subject)
      const digest = response.header('docker-content-digest') ?? (isOciDigest(selector) ? selector : '')
      const mediaType = bareMediaType(response.header('content-type'))
      const size = response.contentLength
      if (!isOciDigest(digest) || size === undefined || !ACCEPT_MANIFESTS.includes(mediaType))
        return undefined
      if (isOciDigest(selector) && digest !== selector) throw mismatch(subject, selector, digest)
      return { mediaType, digest, size, annotations: {} }
    })
    return found ?? (await this.fetchManifest(repository, selector, options)).descriptor
  }

  /**
   * Fetches, checks the digest and parses.
   * @throws REGISTRY_PROTOCOL naming host and media type for an answer that is no manifest, MANIFEST_INVALID,
   * MANIFEST_UNSUPPORTED, DIGEST_MISMATCH, REGISTRY_NOT_FOUND, REGISTRY_*
   */
  async fetchManifest(
    repository: string,
    selector: string,
    options: FetchOptions = {},
  ): Promise<FetchedManifest> {
    const subject = this.#manifestSubject(repository, selector)
    return this.#retrying(options, async () => {
      const response = await this.#sendManifest('GET', repository, selector, options)
      if (response.status !== 200) throw await statusFault(response, subject)
      const mediaType = bareMediaType(response.header('content-type'))
      if (!mediaType.endsWith('json') && !mediaType.endsWith('prettyjws')) {
        response.discardNow()
        throw fault(
          'REGISTRY_PROTOCOL',
          `${this.host} answered with ${mediaType || 'no media type'} where the ${subject} was asked for: ` +
            'check that this host is a registry, and no proxy or login page is in between',
          { context: { host: this.host, mediaType }, retryable: false },
        )
      }
      const bytes = await response.bytes(MAX_INDEX_BYTES)
      const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
      const told = isOciDigest(selector) ? selector : response.header('docker-content-digest')
      if (told !== undefined && isOciDigest(told) && told !== digest) throw mismatch(subject, told, digest)
      const content = parseManifest(bytes, mediaType, subject)
      const descriptor = { mediaType: content.mediaType, digest, size: bytes.length, annotations: {} }
      return { descriptor, bytes, content }
    })
  }

  /** A whole small blob (a config, a bootstrap layer), checked. @throws REGISTRY_PROTOCOL when over `limitBytes` */
  async fetchBlob(
    repository: string,
    blob: { digest: string; size?: number },
    limitBytes: number,
    options: FetchOptions = {},
  ): Promise<Uint8Array> {
    const pieces: Uint8Array[] = []
    let length = 0
    for await (const piece of this.#blobs.stream(repository, blob, options)) {
      length += piece.length
      if (length > limitBytes) {
        throw fault(
          'REGISTRY_PROTOCOL',
          `blob ${blob.digest} of ${this.host} is larger than ${limitBytes} bytes`,
          {
            retryable: false,
          },
        )
      }
      pieces.push(piece)
    }
    return Buffer.concat(pieces, length)
  }

  /** The whole blob piece by piece, resumed where it broke off. Trust it when it has ended without an error. */
  streamBlob(
    repository: string,
    blob: { digest: string; size?: number },
    options: FetchOptions = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    return this.#blobs.stream(repository, blob, options)
  }

  /** Exactly `length` bytes of a blob at `offset`; not checked against a digest. */
  fetchBlobRange(
    repository: string,
    digest: string,
    offset: number,
    length: number,
    options: FetchOptions = {},
  ): Promise<Uint8Array> {
    return this.#blobs.range(repository, digest, offset, length, options)
  }

  /** Stored size of a blob in bytes. */
  fetchBlobSize(repository: string, digest: string, options: FetchOptions = {}): Promise<number> {
    return this.#blobs.size(repository, digest, options)
  }

  /** True when the repository holds the blob. */
  hasBlob(repository: string, digest: string, options: UploadOptions = {}): Promise<boolean> {
    return this.#uploads.exists(repository, digest, options)
  }

  /** Takes a blob over from another repository of this registry; false when the registry does not do that. */
  mountBlob(repository: string, digest: string, from: string, options: UploadOptions = {}): Promise<boolean> {
    return this.#uploads.mount(repository, digest, from, options)
  }

  /**
   * Uploads a blob of known or unknown size, piece by piece, resuming after broken connections.
   * @throws DIGEST_MISMATCH when `expected` is given and differs, REGISTRY_*
   */
  uploadBlob(
    repository: string,
    content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    options: UploadOptions & { expected?: { digest: string; size?: number } } = {},
  ): Promise<UploadedBlob> {
    return this.#uploads.upload(repository, content, options)
  }

  /**
   * Uploads a blob whose digest is known, going on where an earlier process left it. @throws REGISTRY_*
   * @param contentFrom - the blob's bytes from an offset on
   */
  uploadKnownBlob(
    repository: string,
    blob: UploadedBlob,
    contentFrom: (offset: number) => AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    session: UploadSession,
    options: UploadOptions = {},
  ): Promise<void> {
    return this.#uploads.uploadKnown(repository, blob, contentFrom, session, options)
  }

  /** Stores a manifest or index under a tag or its own digest; its blobs must be there before. Gives its digest. */
  async putManifest(
    repository: string,
    selector: string,
    mediaType: string,
    bytes: Uint8Array,
    options: UploadOptions = {},
  ): Promise<Descriptor> {
    const subject = this.#manifestSubject(repository, selector)
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
    await this.#retrying(options, async () => {
      const response = await this.#session.send({
        method: 'PUT',
        path: `${repository}/manifests/${selector}`,
        scopes: [`repository:${repository}:pull,push`],
        headers: { 'content-type': mediaType },
        body: bytes,
        subject,
        signal: options.signal,
      })
      if (response.status !== 201) throw await statusFault(response, subject, 'push')
      await response.discard()
      const told = response.header('docker-content-digest')
      if (told !== undefined && isOciDigest(told) && told !== digest) throw mismatch(subject, digest, told)
    })
    return { mediaType, digest, size: bytes.length, annotations: {} }
  }

  /** Ends all connections; calls under way fail with CANCELLED. Idempotent. */
  async close(): Promise<void> {
    this.#closed.abort()
    await this.#session.close()
  }

  #sendManifest(
    method: 'GET' | 'HEAD',
    repository: string,
    selector: string,
    options: FetchOptions,
  ): Promise<HttpResponse> {
    return this.#session.send({
      method,
      path: `${repository}/manifests/${selector}`,
      scopes: [`repository:${repository}:pull`],
      headers: { accept: ACCEPT_MANIFESTS.join(', ') },
      subject: this.#manifestSubject(repository, selector),
      ...options,
    })
  }

  #manifestSubject(repository: string, selector: string): string {
    return `manifest ${this.host}/${repository}${isOciDigest(selector) ? '@' : ':'}${selector}`
  }

  #retrying<T>(options: FetchOptions, attempt: () => Promise<T>): Promise<T> {
    const signals = [options.signal, this.#closed.signal]
    return retrying(this.#retry[options.lane ?? 'demand'], signals, attempt)
  }
}

function retryPolicies(options: RegistryClientOptions): Record<Lane, RetryPolicy> {
  const retries = options.retryLimit ?? DEMAND_RETRY.retries
  return {
    demand: { ...DEMAND_RETRY, ...options.retry, retries },
    background: {
      ...BACKGROUND_RETRY,
      ...options.retry,
      retries: Math.min(retries, BACKGROUND_RETRY.retries),
    },
  }
}

function mismatch(subject: string, expected: string, found: string): Error {
  return fault('DIGEST_MISMATCH', `${subject}: has digest ${found} instead of ${expected}: push it again`, {
    context: { expected, found },
  })
}
