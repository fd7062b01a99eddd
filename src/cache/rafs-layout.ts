/**
 * The layout of a native RAFS v6 blob: plain chunks, batches of small chunks, encrypted ones (RAFS data blob).
 */
import { decompress } from '../common/codec.js'
import { crc32c } from '../common/crc32c.js'
import { digestOf } from '../common/digest.js'
import { asFault, fault, type Fault } from '../common/fault.js'
import type { BlobEntry } from '../erofs/blob-table.js'
import type { Batch, BlobMeta } from '../erofs/blob-meta.js'
import type { ChunkInfos } from '../erofs/chunk-info.js'
import type { ChunkChecks } from '../erofs/chunk-table.js'
import { BLOCK_SIZE, alignUp } from '../erofs/format.js'
import type { BlobLayout, ChunkRange, DecodedChunk, Extent } from './layout.js'

export interface RafsLayoutOptions {
  /** False accepts every chunk of the right length, whatever its digest. */
  readonly validate: boolean
}

export class RafsLayout implements BlobLayout {
  readonly chunkCount: number
  readonly uncompressedSize: number
  readonly #blob: BlobEntry
  readonly #chunks: ChunkInfos
  readonly #batches: readonly Batch[]
  readonly #checks: ChunkChecks | undefined
  readonly #validate: boolean

  /**
   * @param checks - digests of the chunks from the bootstrap's chunk table; undefined when it has none, then only chunks
   *   with a CRC in the blob's own metadata can be checked
   */
  constructor(blob: BlobEntry, meta: BlobMeta, checks: ChunkChecks | undefined, options: RafsLayoutOptions) {
    this.chunkCount = meta.chunks.count
    this.uncompressedSize = alignUp(blob.uncompressedSize, BLOCK_SIZE)
    this.#blob = blob
    this.#chunks = meta.chunks
    this.#batches = meta.batches
    this.#checks = checks
    this.#validate = options.validate
  }

  chunkRange(chunk: number): ChunkRange {
    return { offset: this.#chunks.offset(chunk), length: this.#chunks.size(chunk) }
  }

  chunksIn(offset: number, length: number): { first: number; end: number } {
    const first = this.#chunks.firstEndingAfter(offset)
    return { first, end: Math.max(first, this.#chunks.firstStartingAt(offset + length)) }
  }

  extentOf(chunk: number): Extent {
    const batch = this.#batchOf(chunk)
    if (batch === undefined) {
      const storedOffset = this.#chunks.compressedOffset(chunk)
      return {
        storedOffset,
        storedLength: this.#chunks.compressedSize(chunk),
        firstChunk: chunk,
        chunkCount: 1,
      }
    }
    const { storedOffset, compressedSize, firstChunk, chunkCount } = batch
    return { storedOffset, storedLength: compressedSize, firstChunk, chunkCount }
  }

  verifiable(chunk: number): boolean {
    return !this.#validate || this.#digest(chunk) !== undefined || this.#crc(chunk) !== undefined
  }

  decode(extent: Extent, stored: Uint8Array): Promise<DecodedChunk[]> {
    return new Promise(resolve => {
      resolve(this.#decode(extent, stored))
    })
  }

  verify(decoded: DecodedChunk): void {
    if (!this.#validate) return
    const { chunk, bytes } = decoded
    const expected = this.#digest(chunk)
    if (expected !== undefined) {
      const digest = digestOf(this.#blob.digester, bytes)
      if (Buffer.compare(digest, expected) !== 0) throw this.#mismatch(chunk, hex(expected), hex(digest))
      return
    }
    const crc = this.#crc(chunk)
    if (crc === undefined) {
      throw fault(
        'CHUNK_DIGEST_MISMATCH',
        `chunk ${chunk} of blob ${this.#blob.blobId} cannot be checked: the bootstrap has no digest for it`,
        { context: { blobId: this.#blob.blobId, chunk } },
      )
    }
    const found = crc32c(bytes)
    if (found !== crc)
      throw this.#mismatch(chunk, `crc32c:${crc.toString(16)}`, `crc32c:${found.toString(16)}`)
  }

  #decode(extent: Extent, stored: Uint8Array): DecodedChunk[] {
    const { firstChunk, chunkCount, storedLength } = extent
    try {
      if (stored.length !== storedLength)
        throw fault('CHUNK_DECODE', `${stored.length} stored bytes came where ${storedLength} were asked for`)
      const batch = this.#batchOf(firstChunk)
      if (batch === undefined) return [this.#decodedChunk(firstChunk, this.#decodePlain(firstChunk, stored))]
      const bytes = this.#decodeBatch(batch, stored)
      return Array.from({ length: chunkCount }, (_, index) => {
        const chunk = firstChunk + index
        const start = this.#chunks.offsetInBatch(chunk)
        return this.#decodedChunk(chunk, bytes.subarray(start, start + this.#chunks.size(chunk)))
      })
    } catch (err) {
      const { blobId } = this.#blob
      const reason = asFault(err).message
      throw fault('CHUNK_DECODE', `chunk ${firstChunk} of blob ${blobId} does not decode: ${reason}`, {
        cause: err,
        context: { blobId, chunk: firstChunk, storedOffset: extent.storedOffset, storedLength },
      })
    }
  }

  #decodePlain(chunk: number, stored: Uint8Array): Uint8Array {
    const packed = this.#chunks.isEncrypted(chunk) ? this.#decrypt(stored) : stored
    const compressor = this.#chunks.isCompressed(chunk) ? this.#blob.compressor : 'none'
    return decompress(compressor, packed, this.#chunks.size(chunk))
  }

  #decodeBatch(batch: Batch, stored: Uint8Array): Uint8Array {
    const packed = this.#decrypt(stored)
    const compressor = batch.compressedSize === batch.uncompressedSize ? 'none' : this.#blob.compressor
    return decompress(compressor, packed, batch.uncompressedSize)
  }

  #decrypt(stored: Uint8Array): Uint8Array {
    return this.#blob.cipher?.decrypt(stored) ?? stored
  }

  #decodedChunk(chunk: number, bytes: Uint8Array): DecodedChunk {
    return { chunk, offset: this.#chunks.offset(chunk), bytes }
  }

  #batchOf(chunk: number): Batch | undefined {
    const index = this.#chunks.batchIndex(chunk)
    return index === undefined ? undefined : this.#batches[index]
  }

  #digest(chunk: number): Uint8Array | undefined {
    return this.#checks?.digest(chunk)
  }

  /** Only the bootstrap is trusted with digests; where it has no table at all, the blob's own CRC finds accidents. */
  #crc(chunk: number): number | undefined {
    return this.#checks === undefined ? this.#chunks.crc32c(chunk) : this.#checks.crc32c(chunk)
  }

  #mismatch(chunk: number, expected: string, found: string): Fault {
    const { blobId } = this.#blob
    return fault(
      'CHUNK_DIGEST_MISMATCH',
      `chunk ${chunk} of blob ${blobId} has digest ${found}, the bootstrap says ${expected}: ` +
        'the stored blob is damaged or was replaced',
      { context: { blobId, chunk, expected, found } },
    )
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
