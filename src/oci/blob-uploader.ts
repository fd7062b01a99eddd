/**
 * Putting blobs into one registry (OCI distribution-spec 1.1, "Pushing blobs").
 *
 * A blob goes up in pieces that are kept until the registry has them: after a broken connection the registry says how
 * far it came, and the rest of the piece follows. Memory is one piece, however large the blob.
 */
import { createHash } from 'node:crypto'
import { fault, isFault, type Fault } from '../common/fault.js'
import type { HttpResponse } from './http-response.js'
import type { RegistrySession, SessionRequest } from './registry-session.js'
import { Retry, retrying, type RetryPolicy } from './retry.js'
import { statusFault } from './status-fault.js'

export interface UploadOptions {
  readonly signal?: AbortSignal | undefined
}

export interface UploadedBlob {
  readonly digest: string
  readonly size: number
}

export interface BlobUploaderOptions {
  readonly session: RegistrySession
  readonly retry: RetryPolicy
  readonly closed: AbortSignal
  /** Bytes of one piece; default 8 MiB, more where the registry asks for more. */
  readonly pieceBytes?: number
}

/** A note of an upload under way, where another process finds it. */
export interface UploadSession {
  read(): Promise<string | undefined>
  /** Undefined when there is nothing to go on with any more. */
  write(location: string | undefined): Promise<void>
}

const DEFAULT_PIECE_BYTES = 8 << 20
/** A registry's own minimum (OCI-Chunk-Min-Length) is followed up to here. */
const MAX_PIECE_BYTES = 128 << 20

export class BlobUploader {
  readonly #session: RegistrySession
  readonly #options: BlobUploaderOptions

  constructor(options: BlobUploaderOptions) {
    this.#session = options.session
    this.#options = options
  }

  /** True when the repository holds the blob. */
  async exists(repository: string, digest: string, options: UploadOptions = {}): Promise<boolean> {
    return this.#retrying(options, async () => {
      const path = `${repository}/blobs/${digest}`
      const response = await this.#send('HEAD', path, repository, options)
      await response.discard()
      // A redirect to a blob store means that there is something to be redirected to.
      if (response.status < 400) return true
      if (response.status === 404) return false
      throw await statusFault(response, this.#subject(repository), 'push')
    })
  }

  /** Makes a blob of another repository of this registry appear in `repository`; false when the registry does not. */
  async mount(
    repository: string,
    digest: string,
    from: string,
    options: UploadOptions = {},
  ): Promise<boolean> {
    return this.#retrying(options, async () => {
      const query = new URLSearchParams({ mount: digest, from })
      const path = `${repository}/blobs/uploads/?${query.toString()}`
      const response = await this.#send('POST', path, repository, options, {}, from)
      if (response.status === 202) {
        // The registry began an upload instead.
        await response.discard()
        await this.#abandon(repository, this.#location(response, repository))
        return false
      }
      // No right to read the other repository: the blob has to travel.
      if ([401, 403, 404, 405].includes(response.status)) {
        await response.discard()
        return false
      }
      if (response.status !== 201) throw await statusFault(response, this.#subject(repository), 'push')
      await response.discard()
      return true
    })
  }

  /**
   * Uploads what `content` yields. The digest is computed on the way; with `expected` it is compared before the blob
   * is finished. @throws DIGEST_MISMATCH, REGISTRY_UNAUTHORIZED, REGISTRY_*; the upload is then given up
   */
  async upload(
    repository: string,
    content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    options: UploadOptions & { expected?: { digest: string; size?: number } } = {},
  ): Promise<UploadedBlob> {
    const upload = await this.#begin(repository, options)
    const hash = createHash('sha256')
    let size = 0
    try {
      for await (const piece of pieces(content, upload.pieceBytes, bytes => hash.update(bytes))) {
        await this.#patch(upload, piece, size, options)
        size += piece.length
      }
      const digest = `sha256:${hash.digest('hex')}`
      const { expected } = options
      if (expected && (expected.digest !== digest || (expected.size ?? size) !== size))
        throw mismatch(expected, digest, size)
      await this.#finish(upload, digest, options)
      return { digest, size }
    } catch (err) {
      if (!isFault(err, 'CANCELLED')) await this.#abandon(repository, upload.location)
      throw err
    }
  }

  /**
   * Uploads a blob that is known, from where the upload of an earlier process broke off if its session is noted. A failed
   * upload keeps its session. The registry compares the digest. @throws DIGEST_MISMATCH, REGISTRY_*
   */
  async uploadKnown(
    repository: string,
    blob: UploadedBlob,
    contentFrom: (offset: number) => AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    session: UploadSession,
    options: UploadOptions = {},
  ): Promise<void> {
    const resumed = await this.#resume(repository, blob, session, options)
    const upload = resumed?.upload ?? (await this.#begin(repository, options))
    let at = resumed?.at ?? 0
    await session.write(upload.location.href)
    for await (const piece of pieces(contentFrom(at), upload.pieceBytes, () => undefined)) {
      await this.#patch(upload, piece, at, options)
      at += piece.length
      await session.write(upload.location.href)
    }
    if (at !== blob.size) throw mismatch(blob, 'not computed', at)
    // Whether it works or not, nothing is left to go on with.
    await session.write(undefined)
    await this.#finish(upload, blob.digest, options)
  }

  /** The upload that a note tells of, and how far it came; undefined where the registry knows nothing of it. */
  async #resume(
    repository: string,
    { size }: UploadedBlob,
    session: UploadSession,
    options: UploadOptions,
  ): Promise<{ upload: Upload; at: number } | undefined> {
    const noted = await session.read()
    if (noted === undefined || !URL.canParse(noted) || new URL(noted).host !== this.#session.host)
      return undefined
    const pieceBytes = this.#options.pieceBytes ?? DEFAULT_PIECE_BYTES
    const upload = { repository, location: new URL(noted), pieceBytes }
    try {
      const at = await this.#reached(upload, options)
      return at <= size ? { upload, at } : undefined
    } catch (err) {
      if (isFault(err, 'CANCELLED')) throw err
      return undefined
    }
  }

  async #begin(repository: string, options: UploadOptions): Promise<Upload> {
    return this.#retrying(options, async () => {
      const response = await this.#send('POST', `${repository}/blobs/uploads/`, repository, options)
      if (response.status !== 202) throw await statusFault(response, this.#subject(repository), 'push')
      await response.discard()
      const wanted = Number(response.header('oci-chunk-min-length') ?? 0)
      const ours = this.#options.pieceBytes ?? DEFAULT_PIECE_BYTES
      const pieceBytes = Math.max(ours, Number.isFinite(wanted) ? Math.min(wanted, MAX_PIECE_BYTES) : 0)
      return { repository, location: this.#location(response, repository), pieceBytes }
    })
  }

  /** Sends one piece that starts at `start`; after a failure, what the registry has not got of it. */
  async #patch(upload: Upload, piece: Uint8Array, start: number, options: UploadOptions): Promise<void> {
    const retry = new Retry(this.#options.retry, [options.signal, this.#options.closed])
    const end = start + piece.length
    let at = start
    let uncertain = false
    while (at < end) {
      try {
        if (uncertain) {
          const reached = await this.#reached(upload, options)
          if (reached < start || reached > end) throw this.#lost(upload, `it has ${reached} bytes of ${at}`)
          retry.moved(reached - at)
          at = reached
          uncertain = false
          continue
        }
        const headers = {
          'content-type': 'application/octet-stream',
          'content-range': `${at}-${end - 1}`,
        }
        const body = piece.subarray(at - start)
        const response = await this.#send('PATCH', upload.location, upload.repository, options, {
          headers,
          body,
        })
        if (response.status === 416) {
          // The registry counts otherwise than we do: ask where it is.
          await response.discard()
          throw fault('REGISTRY_UNAVAILABLE', `${this.#subject(upload.repository)}: piece at ${at} refused`)
        }
        if (response.status === 404) throw this.#lost(upload, 'it has forgotten it')
        if (response.status !== 202)
          throw await statusFault(response, this.#subject(upload.repository), 'push')
        await response.discard()
        upload.location = this.#location(response, upload.repository)
        at = end
      } catch (err) {
        await retry.after(err)
        uncertain = true
      }
    }
  }

  /** How many bytes the registry has. */
  async #reached(upload: Upload, options: UploadOptions): Promise<number> {
    const response = await this.#send('GET', upload.location, upload.repository, options)
    if (response.status === 404) throw this.#lost(upload, 'it has forgotten it')
    if (response.status !== 204 && response.status !== 202)
      throw await statusFault(response, this.#subject(upload.repository), 'push')
    await response.discard()
    upload.location = this.#location(response, upload.repository)
    const last = /^(?:bytes=)?0-([0-9]{1,15})$/.exec(response.header('range') ?? '')?.[1]
    // "0-0" is what registries say for nothing and for one byte; nothing is by far the likelier.
    return last === undefined || last === '0' ? 0 : Number(last) + 1
  }

  async #finish(upload: Upload, digest: string, options: UploadOptions): Promise<void> {
    let first = true
    await this.#retrying(options, async () => {
      // The answer to a PUT that worked may have been lost.
      if (!first && (await this.exists(upload.repository, digest, options))) return
      first = false
      const url = new URL(upload.location)
      url.searchParams.set('digest', digest)
      const headers = { 'content-type': 'application/octet-stream' }
      const response = await this.#send('PUT', url, upload.repository, options, { headers })
      if (response.status !== 201 && response.status !== 204)
        throw await statusFault(response, this.#subject(upload.repository), 'push')
      await response.discard()
    })
  }

  /** Best effort: a registry drops stale uploads by itself. */
  async #abandon(repository: string, location: URL): Promise<void> {
    try {
      const response = await this.#send('DELETE', location, repository, {})
      await response.discard()
    } catch {
      // The failure that led here is the one to report.
    }
  }

  #send(
    method: SessionRequest['method'],
    path: string | URL,
    repository: string,
    options: UploadOptions,
    extra: Pick<SessionRequest, 'headers' | 'body'> = {},
    alsoPull?: string,
  ): Promise<HttpResponse> {
    const scopes = [`repository:${repository}:pull,push`]
    if (alsoPull !== undefined) scopes.push(`repository:${alsoPull}:pull`)
    const subject = this.#subject(repository)
    return this.#session.send({ method, path, scopes, subject, signal: options.signal, ...extra })
  }

  #location(response: HttpResponse, repository: string): URL {
    const location = response.header('location') ?? ''
    if (location !== '' && URL.canParse(location, response.url.href)) {
      const url = new URL(location, response.url)
      if (url.hostname === response.url.hostname) return url
    }
    throw fault('REGISTRY_PROTOCOL', `${this.#subject(repository)}: no Location on this host to go on with`, {
      retryable: false,
    })
  }

  #lost(upload: Upload, why: string): Fault {
    const subject = this.#subject(upload.repository)
    return fault('REGISTRY_PROTOCOL', `${subject}: the registry lost the upload, ${why}: push again`, {
      retryable: false,
    })
  }

  #subject(repository: string): string {
    return `upload to ${this.#session.host}/${repository}`
  }

  #retrying<T>(options: UploadOptions, attempt: () => Promise<T>): Promise<T> {
    return retrying(this.#options.retry, [options.signal, this.#options.closed], attempt)
  }
}

interface Upload {
  readonly repository: string
  location: URL
  readonly pieceBytes: number
}

/** Cuts what comes into pieces of exactly `size` bytes, the last one shorter. The buffer is used again. */
async function* pieces(
  content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  size: number,
  onBytes: (bytes: Uint8Array) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  const buffer = Buffer.allocUnsafe(size)
  let filled = 0
  for await (const bytes of content) {
    onBytes(bytes)
    for (let at = 0; at < bytes.length;) {
      const part = bytes.subarray(at, at + size - filled)
      buffer.set(part, filled)
      filled += part.length
      at += part.length
      if (filled < size) continue
      yield buffer
      filled = 0
    }
  }
  if (filled > 0) yield buffer.subarray(0, filled)
}

function mismatch(expected: { digest: string; size?: number }, digest: string, size: number): Fault {
  return fault('DIGEST_MISMATCH', `uploaded content has digest ${digest} instead of ${expected.digest}`, {
    context: { expected: expected.digest, found: digest, expectedBytes: expected.size, sizeBytes: size },
  })
}
