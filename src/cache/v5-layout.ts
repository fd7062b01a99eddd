/** The layout of a RAFS v5 blob, of which only the bootstraps of its images tell (RAFS v5). */
import type { Compressor } from '../common/codec.js'
import type { Digester } from '../common/digest.js'
import { fault } from '../common/fault.js'
import { checkChunk, decodeUnit } from '../erofs/stored-unit.js'
import { chunkAddress } from '../erofs/v5/address.js'
import type { KnownChunks } from '../erofs/v5/known-chunks.js'
import type { BlobLayout, ChunkRange, DecodedChunk, Extent } from './layout.js'
import { undecodable } from './rafs-layout.js'

export interface V5LayoutOptions {
  readonly blobId: string
  readonly chunkCount: number
  /** Size of the cache file. */
  readonly sizeBytes: number
  readonly compressor: Compressor
  readonly digester: Digester
  /** False accepts every chunk of the right length, whatever its digest. */
  readonly validate: boolean
}

export class V5Layout implements BlobLayout {
  readonly chunkCount: number
  readonly uncompressedSize: number
  readonly #options: V5LayoutOptions
  #chunks: KnownChunks
  #validate: boolean

  /** @throws BLOB_META_INVALID */
  constructor(options: V5LayoutOptions, chunks: KnownChunks) {
    const { blobId, chunkCount } = options
    if (chunks.count > 0 && chunks.index(chunks.count - 1) >= chunkCount) {
      const why = `the image uses chunk ${chunks.index(chunks.count - 1)} of ${chunkCount}`
      throw fault('BLOB_META_INVALID', `the bootstrap contradicts itself about blob ${blobId}: ${why}`)
    }
    this.#options = options
    this.#chunks = chunks
    this.#validate = options.validate
    this.chunkCount = options.chunkCount
    this.uncompressedSize = options.sizeBytes
  }

  adopt(other: BlobLayout): void {
    if (!(other instanceof V5Layout))
      throw fault(
        'BLOB_META_INVALID',
        `blob ${this.#options.blobId} is of RAFS v5 to one image, not to another`,
      )
    this.#chunks = this.#chunks.with(other.#chunks)
    this.#validate ||= other.#validate
  }

  chunkRange(chunk: number): ChunkRange {
    const chunks = this.#chunks
    const row = chunks.floor(chunk)
    if (row < 0) return { offset: chunkAddress(0, chunk), length: 0 }
    const start = chunks.uncompressedOffset(row)
    const length = chunks.uncompressedSize(row)
    if (chunks.index(row) === chunk) return { offset: chunkAddress(start, chunk), length }
    return { offset: chunkAddress(start + length, chunk), length: 0 }
  }

  chunksIn(offset: number, length: number): { first: number; end: number } {
    const chunks = this.#chunks
    const before = chunks.lastWhere(row => this.#address(row) + chunks.uncompressedSize(row) <= offset)
    const last = chunks.lastWhere(row => this.#address(row) < offset + length)
    if (last <= before) return { first: 0, end: 0 }
    return { first: chunks.index(before + 1), end: chunks.index(last) + 1 }
  }

  extentOf(chunk: number): Extent {
    const chunks = this.#chunks
    const row = chunks.floor(chunk)
    const own = { firstChunk: chunk, chunkCount: 1 }
    if (row < 0) return { ...own, storedOffset: 0, storedLength: 0 }
    const storedOffset = chunks.compressedOffset(row)
    const storedLength = chunks.compressedSize(row)
    if (chunks.index(row) === chunk) return { ...own, storedOffset, storedLength }
    return { ...own, storedOffset: storedOffset + storedLength, storedLength: 0 }
  }

  verifiable(chunk: number): boolean {
    const row = this.#chunks.floor(chunk)
    return row >= 0 && this.#chunks.index(row) === chunk
  }

  decode(extent: Extent, stored: Uint8Array): Promise<DecodedChunk[]> {
    return new Promise(resolve => {
      resolve(this.#decode(extent, stored))
    })
  }

  verify({ chunk, bytes }: DecodedChunk): void {
    if (!this.#validate) return
    const { blobId, digester } = this.#options
    const digest = this.verifiable(chunk) ? this.#chunks.digest(this.#chunks.floor(chunk)) : undefined
    checkChunk({ blobId, digester, chunk, digest, crc32: undefined }, bytes)
  }

  #decode(extent: Extent, stored: Uint8Array): DecodedChunk[] {
    const { blobId, compressor } = this.#options
    const { offset, length } = this.chunkRange(extent.firstChunk)
    const unit = {
      ...extent,
      compressor: extent.storedLength === length ? ('none' as const) : compressor,
      cipher: undefined,
      uncompressedSize: length,
    }
    try {
      return [{ chunk: extent.firstChunk, offset, bytes: decodeUnit(unit, stored) }]
    } catch (err) {
      throw undecodable(blobId, extent, err)
    }
  }

  #address(row: number): number {
    return chunkAddress(this.#chunks.uncompressedOffset(row), this.#chunks.index(row))
  }
}
