/**
 * The layout of a native RAFS v6 blob: plain chunks, batches of small chunks, encrypted ones (RAFS data blob).
 */
import { asFault, fault, type Fault } from '../common/fault.js'
import type { BlobEntry } from '../erofs/blob-table.js'
import type { BlobMeta } from '../erofs/blob-meta.js'
import type { ChunkChecks } from '../erofs/chunk-table.js'
import { BLOCK_SIZE, alignUp } from '../erofs/format.js'
import { checkChunk, decodeUnit, storedUnit } from '../erofs/stored-unit.js'
import type { BlobLayout, ChunkRange, DecodedChunk, Extent } from './layout.js'

export interface RafsLayoutOptions {
  /** False accepts every chunk of the right length, whatever its digest. */
  readonly validate: boolean
}

export class RafsLayout implements BlobLayout {
  readonly chunkCount: number
  readonly uncompressedSize: number
  readonly #blob: BlobEntry
  readonly #meta: BlobMeta
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
    this.#meta = meta
    this.#checks = checks
    this.#validate = options.validate
  }

  chunkRange(chunk: number): ChunkRange {
    const { chunks } = this.#meta
    return { offset: chunks.offset(chunk), length: chunks.size(chunk) }
  }

  chunksIn(offset: number, length: number): { first: number; end: number } {
    const { chunks } = this.#meta
    const first = chunks.firstEndingAfter(offset)
    return { first, end: Math.max(first, chunks.firstStartingAt(offset + length)) }
  }

  extentOf(chunk: number): Extent {
    const { storedOffset, storedLength, firstChunk, chunkCount } = storedUnit(this.#blob, this.#meta, chunk)
    return { storedOffset, storedLength, firstChunk, chunkCount }
  }

  verifiable(chunk: number): boolean {
    return !this.#validate || this.#checks?.digest(chunk) !== undefined || this.#crc(chunk) !== undefined
  }

  decode(extent: Extent, stored: Uint8Array): Promise<DecodedChunk[]> {
    return new Promise(resolve => {
      resolve(this.#decode(extent, stored))
    })
  }

  verify(decoded: DecodedChunk): void {
    if (!this.#validate) return
    const { chunk, bytes } = decoded
    const { blobId, digester } = this.#blob
    const digest = this.#checks?.digest(chunk)
    const crc32 = digest === undefined ? this.#crc(chunk) : undefined
    checkChunk({ blobId, digester, chunk, digest, crc32 }, bytes)
  }

  #decode(extent: Extent, stored: Uint8Array): DecodedChunk[] {
    const { firstChunk, chunkCount } = extent
    const { chunks } = this.#meta
    try {
      const bytes = decodeUnit(storedUnit(this.#blob, this.#meta, firstChunk), stored)
      if (chunks.batchIndex(firstChunk) === undefined)
        return [{ chunk: firstChunk, offset: chunks.offset(firstChunk), bytes }]
      return Array.from({ length: chunkCount }, (_, index) => {
        const chunk = firstChunk + index
        const start = chunks.offsetInBatch(chunk)
        const own = bytes.subarray(start, start + chunks.size(chunk))
        return { chunk, offset: chunks.offset(chunk), bytes: own }
      })
    } catch (err) {
      throw undecodable(this.#blob.blobId, extent, err)
    }
  }

  /** Only the bootstrap is trusted with digests; where it has no table at all, the blob's own CRC finds accidents. */
  #crc(chunk: number): number | undefined {
    return this.#checks === undefined ? this.#meta.chunks.crc32c(chunk) : this.#checks.crc32c(chunk)
  }
}

export function undecodable(blobId: string, extent: Extent, err: unknown): Fault {
  const { firstChunk, storedOffset, storedLength } = extent
  const reason = asFault(err).message
  return fault('CHUNK_DECODE', `chunk ${firstChunk} of blob ${blobId} does not decode: ${reason}`, {
    cause: err,
    context: { blobId, chunk: firstChunk, storedOffset, storedLength },
  })
}
