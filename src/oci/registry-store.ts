import { sha256 } from '../common/digest.js'
import { isFault } from '../common/fault.js'
import type {
  BlobContent,
  BlobId,
  ImageSource,
  ImageStore,
  ManifestId,
  PutBlobOptions,
  StoreOptions,
} from './image-store.js'
import type { Descriptor } from './manifest.js'
import { type Reference, formatReference, manifestSelector } from './reference.js'
import type { FetchedManifest, RegistryClient } from './registry-client.js'

/** One repository of a registry as an image store. It owns its client. */
export class RegistryStore implements ImageStore {
  readonly name: string
  readonly reference: Reference
  readonly #client: RegistryClient

  constructor(client: RegistryClient, reference: Reference) {
    this.name = formatReference(reference)
    this.reference = reference
    this.#client = client
  }

  resolve(options?: StoreOptions): Promise<FetchedManifest> {
    return this.#client.fetchManifest(this.#repository, manifestSelector(this.reference), options)
  }

  fetchManifest({ digest }: ManifestId, options?: StoreOptions): Promise<FetchedManifest> {
    return this.#client.fetchManifest(this.#repository, digest, options)
  }

  streamBlob({ digest, size }: BlobId, options?: StoreOptions): AsyncIterable<Uint8Array> {
    return this.#client.streamBlob(this.#repository, { digest, size }, options)
  }

  readBlobRange(
    { digest }: BlobId,
    offset: number,
    length: number,
    options?: StoreOptions,
  ): Promise<Uint8Array> {
    return this.#client.fetchBlobRange(this.#repository, digest, offset, length, options)
  }

  hasBlob({ digest }: BlobId, options?: StoreOptions): Promise<boolean> {
    return this.#client.hasBlob(this.#repository, digest, options)
  }

  async blobSize(digest: string, options?: StoreOptions): Promise<number | undefined> {
    try {
      return await this.#client.fetchBlobSize(this.#repository, digest, options)
    } catch (err) {
      if (isFault(err, 'REGISTRY_NOT_FOUND')) return undefined
      throw err
    }
  }

  async putBlob(blob: BlobId, content: BlobContent, options: PutBlobOptions = {}): Promise<void> {
    const { digest, size } = blob
    const { session, signal } = options
    if (session) await this.#client.uploadKnownBlob(this.#repository, blob, content, session, { signal })
    else await this.#client.uploadBlob(this.#repository, content(0), { signal, expected: { digest, size } })
  }

  async takeBlob({ digest }: BlobId, from: ImageSource, options?: StoreOptions): Promise<boolean> {
    if (!(from instanceof RegistryStore) || from.#client.host !== this.#client.host) return false
    if (from.#repository === this.#repository) return false
    return this.#client.mountBlob(this.#repository, digest, from.#repository, options)
  }

  putManifest(
    mediaType: string,
    bytes: Uint8Array,
    { named, signal }: StoreOptions & { readonly named: boolean },
  ): Promise<Descriptor> {
    const selector = named ? (this.reference.tag ?? 'latest') : sha256(bytes)
    return this.#client.putManifest(this.#repository, selector, mediaType, bytes, { signal })
  }

  /** A registry shows what it was given at once. */
  async commit(): Promise<void> {}

  close(): Promise<void> {
    return this.#client.close()
  }

  get #repository(): string {
    return this.reference.repository
  }
}
