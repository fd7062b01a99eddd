/**
 * Where an image comes from and where it goes to: a repository of a registry, an OCI layout in a directory, or one in a
 * tar archive. A store is bound to one reference; tools read and write images through it and never ask which it is.
 */
import { fault } from '../common/fault.js'
import type { UploadSession } from './blob-uploader.js'
import type { Descriptor } from './manifest.js'
import type { Reference } from './reference.js'
import type { FetchedManifest } from './registry-client.js'

export interface StoreOptions {
  readonly signal?: AbortSignal | undefined
}

/** What a blob is known by. */
export type BlobId = Pick<Descriptor, 'digest' | 'size'>

/** What a manifest is known by; what it says of its own type comes first. */
export type ManifestId = Pick<Descriptor, 'digest' | 'size' | 'mediaType'>

/** The bytes of a blob from `offset` on; asked more than once where a store has to begin again. */
export type BlobContent = (offset: number) => AsyncIterable<Uint8Array> | Iterable<Uint8Array>

export interface ImageSource {
  /** For messages: `registry.example/app:1`, or `app:1 in /tmp/image.tar`. */
  readonly name: string
  /** Undefined for a layout that is taken for the only image it holds. */
  readonly reference: Reference | undefined
  /** The manifest or index that the reference names. @throws REGISTRY_NOT_FOUND, MANIFEST_*, REGISTRY_*, FILE_* */
  resolve(options?: StoreOptions): Promise<FetchedManifest>
  /** A manifest or index by its digest, checked. @throws the same */
  fetchManifest(entry: ManifestId, options?: StoreOptions): Promise<FetchedManifest>
  /** A whole blob, checked: trust it when it has ended without an error. @throws REGISTRY_NOT_FOUND, DIGEST_MISMATCH */
  streamBlob(blob: BlobId, options?: StoreOptions): AsyncIterable<Uint8Array>
  /** Exactly `length` bytes of a blob; not checked. */
  readBlobRange(blob: BlobId, offset: number, length: number, options?: StoreOptions): Promise<Uint8Array>
  close(): Promise<void>
}

/** Where blobs go. */
export interface BlobTarget {
  readonly name: string
  /** True when the blob needs no upload. */
  hasBlob(blob: BlobId, options?: StoreOptions): Promise<boolean>
  /** Stored bytes of a blob; undefined when it is not there. */
  blobSize(digest: string, options?: StoreOptions): Promise<number | undefined>
  /** Stores a blob that is not there yet. @throws DIGEST_MISMATCH, and the blob is not stored then */
  putBlob(blob: BlobId, content: BlobContent, options?: PutBlobOptions): Promise<void>
  /** Takes a blob over from a source without moving it; false where that is not possible. */
  takeBlob(blob: BlobId, from: ImageSource, options?: StoreOptions): Promise<boolean>
}

export interface ImageTarget extends BlobTarget {
  readonly reference: Reference
  /** Stores a manifest or index whose parts are stored; `named`: it becomes what the reference names. */
  putManifest(
    mediaType: string,
    bytes: Uint8Array,
    options: StoreOptions & { readonly named: boolean },
  ): Promise<Descriptor>
  /** Makes all that was put visible; without it a new archive never appears. */
  commit(): Promise<void>
  close(): Promise<void>
}

/** A store that can be read as well, such as a registry: what it holds may be built upon. */
export type ImageStore = ImageSource & ImageTarget & { readonly reference: Reference }

export interface PutBlobOptions extends StoreOptions {
  /** Where an upload that takes several requests is noted, so that another process can go on with it. */
  readonly session?: UploadSession
}

/** A whole small blob (a config, a bootstrap layer), checked. @throws REGISTRY_PROTOCOL when over `limitBytes` */
export async function readBlob(
  source: ImageSource,
  blob: BlobId,
  limitBytes: number,
  options: StoreOptions = {},
): Promise<Buffer> {
  if (blob.size > limitBytes) {
    throw fault(
      'REGISTRY_PROTOCOL',
      `blob ${blob.digest} of ${source.name} has ${blob.size} bytes, more than the ${limitBytes} it may have`,
      { retryable: false },
    )
  }
  const pieces: Uint8Array[] = []
  for await (const piece of source.streamBlob(blob, options)) pieces.push(piece)
  return Buffer.concat(pieces)
}

/** Stores a blob unless it is there already. Returns the bytes that were moved. */
export async function putBlobOnce(
  target: BlobTarget,
  blob: BlobId,
  content: BlobContent,
  options: PutBlobOptions = {},
): Promise<number> {
  if (await target.hasBlob(blob, options)) return 0
  await target.putBlob(blob, content, options)
  return blob.size
}

/** Makes a blob of one store be in another, moving it only where it must. Returns the bytes that were moved. */
export async function ensureBlob(
  target: BlobTarget,
  blob: BlobId,
  from: ImageSource,
  options: StoreOptions = {},
): Promise<number> {
  if (await target.hasBlob(blob, options)) return 0
  if (await target.takeBlob(blob, from, options)) return 0
  await target.putBlob(blob, offset => skipBytes(from.streamBlob(blob, options), offset), options)
  return blob.size
}

async function* skipBytes(source: AsyncIterable<Uint8Array>, offset: number): AsyncGenerator<Uint8Array> {
  let left = offset
  for await (const piece of source) {
    if (left < piece.length) yield piece.subarray(left)
    left = Math.max(0, left - piece.length)
  }
}
