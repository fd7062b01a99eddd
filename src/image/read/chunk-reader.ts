/** The data of an image: its chunks, decoded and checked, from wherever its blobs are. */
import type { BlobReader } from '../../backend/reader.js'
import { asFault, fault } from '../../common/fault.js'
import { type BlobMeta, parseStoredMeta, storedMetaRange } from '../../erofs/blob-meta.js'
import { type BlobEntry, hasFeature } from '../../erofs/blob-table.js'
import { TAR_HEADER_SIZE } from '../../erofs/format.js'
import type { ImageBlob, ImageChunk } from '../../erofs/image-tree.js'
import { UNKNOWN_DIGEST } from '../../erofs/load-chunks.js'
import { checkChunk, decodeUnit, storedUnit, type StoredUnit } from '../../erofs/stored-unit.js'
import { blobEntryOf } from './blob-entry.js'
import { DecodedBatches } from './decoded-batches.js'
import { StoredWindow } from './stored-window.js'

/** Where blobs are: a backend is one. */
export interface BlobPlace {
  open(blobId: string): BlobReader
}

/** Windows of blobs that are kept at a time, of 2 MiB at most each. */
const MAX_WINDOWS = 8

/**
 * Reads chunks of every form: plain and batched, compressed by any codec or raw, encrypted or not, of RAFS v6 blobs with
 * their own chunk infos and of v5 blobs, of which only the bootstrap knows.
 *
 * Chunks are best asked for in the order in which they are stored. Memory: one decoded chunk, 16 MiB of decoded batches,
 * some windows of stored bytes, and 30 bytes for each chunk of the blobs that were read. Not for concurrent calls.
 */
export class ChunkReader {
  readonly #place: BlobPlace
  readonly #blobs = new Map<ImageBlob, OpenBlob>()
  /** Of blobs whose window may hold bytes, the one that was used last at the end. */
  readonly #windows = new Set<OpenBlob>()
  readonly #batches = new DecodedBatches()
  #lastChunk: ImageChunk | undefined
  #lastBytes: Uint8Array = new Uint8Array(0)

  constructor(place: BlobPlace) {
    this.#place = place
  }

  /**
   * The uncompressed bytes of a chunk; they may share memory and must not be written.
   * @throws CHUNK_DIGEST_MISMATCH, CHUNK_DECODE, BLOB_META_INVALID, RAFS_UNSUPPORTED for blobs that refer to layers of an
   *   OCI image, and what the backend throws
   */
  async read(chunk: ImageChunk): Promise<Uint8Array> {
    if (chunk === this.#lastChunk) return this.#lastBytes
    const blob = await this.#open(chunk.blob)
    this.#touch(blob)
    const bytes = await blob.decode(chunk, this.#batches)
    const { index, digest: hex } = chunk
    // Only the bootstrap is trusted with digests; where it has none, the blob's own CRC finds accidents.
    const crc32 = chunk.crc32 ?? blob.crc32c(index)
    const digest = hex === UNKNOWN_DIGEST ? undefined : Buffer.from(hex, 'hex')
    const { id: blobId, digester } = chunk.blob
    checkChunk({ blobId, chunk: index, digester, digest, crc32 }, bytes)
    this.#lastChunk = chunk
    this.#lastBytes = bytes
    return bytes
  }

  async #open(blob: ImageBlob): Promise<OpenBlob> {
    let opened = this.#blobs.get(blob)
    if (opened === undefined) {
      opened = await OpenBlob.open(blob, this.#place.open(blob.id))
      this.#blobs.set(blob, opened)
    }
    return opened
  }

  #touch(blob: OpenBlob): void {
    this.#windows.delete(blob)
    this.#windows.add(blob)
    if (this.#windows.size <= MAX_WINDOWS) return
    const [oldest] = this.#windows
    if (oldest === undefined) return
    oldest.drop()
    this.#windows.delete(oldest)
  }
}

/** One blob and its metadata. */
class OpenBlob {
  readonly #entry: BlobEntry
  /** Undefined for a blob without metadata of its own: v5. */
  readonly #meta: BlobMeta | undefined
  readonly #window: StoredWindow

  private constructor(entry: BlobEntry, meta: BlobMeta | undefined, window: StoredWindow) {
    this.#entry = entry
    this.#meta = meta
    this.#window = window
  }

  static async open(blob: ImageBlob, reader: BlobReader): Promise<OpenBlob> {
    const entry = blobEntryOf(blob)
    if (entry.ciUncompressedSize === 0)
      return new OpenBlob(entry, undefined, new StoredWindow(reader, await reader.size({ kind: 'demand' })))
    const { offset, length } = storedMetaRange(entry)
    const meta = parseStoredMeta(entry, await reader.read(offset, length, { kind: 'demand' }))
    const trailer = hasFeature(entry, 'hasTarHeader') ? TAR_HEADER_SIZE : 0
    return new OpenBlob(entry, meta, new StoredWindow(reader, entry.ciOffset - trailer))
  }

  async decode(chunk: ImageChunk, batches: DecodedBatches): Promise<Uint8Array> {
    const { index, uncompressedSize } = chunk
    const unit = this.#unit(chunk)
    try {
      const chunks = this.#meta?.chunks
      if (chunks?.batchIndex(index) === undefined) return await this.#read(unit)
      const { blobId } = this.#entry
      const batch = await batches.ensure(blobId, unit.storedOffset, () => this.#read(unit))
      const start = chunks.offsetInBatch(index)
      return batch.subarray(start, start + uncompressedSize)
    } catch (err) {
      const failure = asFault(err)
      if (failure.code !== 'CHUNK_DECODE') throw failure
      const { blobId } = this.#entry
      const { storedOffset, storedLength } = unit
      throw fault(
        'CHUNK_DECODE',
        `chunk ${index} of blob ${blobId} at byte ${storedOffset} does not decode: ${failure.message}`,
        { cause: err, context: { blobId, chunk: index, storedOffset, storedLength } },
      )
    }
  }

  crc32c(index: number): number | undefined {
    return this.#meta?.chunks.crc32c(index)
  }

  drop(): void {
    this.#window.drop()
  }

  async #read(unit: StoredUnit): Promise<Uint8Array> {
    return decodeUnit(unit, await this.#window.read(unit.storedOffset, unit.storedLength))
  }

  /** By the blob's own metadata where there is some: the bootstrap's records leave batches out. */
  #unit(chunk: ImageChunk): StoredUnit {
    const { index, compressedOffset, compressedSize, uncompressedSize } = chunk
    if (this.#meta !== undefined) {
      this.#checkPlace(chunk, this.#meta)
      return storedUnit(this.#entry, this.#meta, index)
    }
    return {
      storedOffset: compressedOffset,
      storedLength: compressedSize,
      firstChunk: index,
      chunkCount: 1,
      compressor: compressedSize === uncompressedSize ? 'none' : this.#entry.compressor,
      cipher: this.#entry.cipher,
      uncompressedSize,
    }
  }

  /** What the bootstrap and the blob both say of a chunk must agree. */
  #checkPlace({ index, uncompressedOffset, uncompressedSize }: ImageChunk, { chunks }: BlobMeta): void {
    const known = index < chunks.count
    if (known && chunks.offset(index) === uncompressedOffset && chunks.size(index) === uncompressedSize)
      return
    const { blobId } = this.#entry
    const own = known
      ? `${chunks.size(index)} bytes at ${chunks.offset(index)}`
      : `only ${chunks.count} chunks`
    throw fault(
      'BLOB_META_INVALID',
      `chunk ${index} of blob ${blobId} has ${uncompressedSize} bytes at ${uncompressedOffset} by the bootstrap, but ` +
        `${own} by the blob's own metadata: the two are not of one image`,
      { context: { blobId, chunk: index } },
    )
  }
}
