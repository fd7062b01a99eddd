/**
 * Chunk info arrays of version 1 (16 bytes) and version 2 (24 bytes): bit-packed words (RAFS data blob, chunk info
 * arrays). Kept as columns of numbers, about 30 bytes a chunk.
 */
import type { BlobEntry } from './blob-table.js'
import { hasFeature } from './blob-table.js'
import * as F from './format.js'
import { StructView } from './struct-view.js'

/** Where each chunk of a blob is, stored and uncompressed, by chunk index. */
export class ChunkInfos {
  readonly count: number
  readonly #blocks: Uint32Array
  readonly #sizes: Uint32Array
  readonly #compressedOffsets: Float64Array
  readonly #compressedSizes: Uint32Array
  readonly #flags: Uint8Array
  /** Low word of the third field: CRC-32C, or the offset in the decoded batch. */
  readonly #data: Uint32Array
  /** High word of the third field: the batch. */
  readonly #batches: Uint32Array

  constructor(count: number, hasBatches: boolean) {
    this.count = count
    this.#blocks = new Uint32Array(count)
    this.#sizes = new Uint32Array(count)
    this.#compressedOffsets = new Float64Array(count)
    this.#compressedSizes = new Uint32Array(count)
    this.#flags = new Uint8Array(count)
    this.#data = new Uint32Array(count)
    this.#batches = new Uint32Array(hasBatches ? count : 0)
  }

  /** Uncompressed offset, a multiple of 4096. */
  offset(chunk: number): number {
    return at(this.#blocks, chunk) * F.BLOCK_SIZE
  }
  /** Uncompressed size. */
  size(chunk: number): number {
    return at(this.#sizes, chunk)
  }
  compressedOffset(chunk: number): number {
    return at(this.#compressedOffsets, chunk)
  }
  /** Stored size; meaningless for a member of a batch. */
  compressedSize(chunk: number): number {
    return at(this.#compressedSizes, chunk)
  }
  /** True when the stored bytes (after decryption) are to be decompressed. */
  isCompressed(chunk: number): boolean {
    return this.#has(chunk, F.CHUNK_INFO_FLAGS.compressed)
  }
  isEncrypted(chunk: number): boolean {
    return this.#has(chunk, F.CHUNK_INFO_FLAGS.encrypted)
  }
  /** The batch that the chunk is a member of. */
  batchIndex(chunk: number): number | undefined {
    return this.#has(chunk, F.CHUNK_INFO_FLAGS.batch) ? at(this.#batches, chunk) : undefined
  }
  /** Offset of a member in its decoded batch. */
  offsetInBatch(chunk: number): number {
    return at(this.#data, chunk)
  }
  /** CRC-32C of the uncompressed bytes, where the array carries one. */
  crc32c(chunk: number): number | undefined {
    return this.#has(chunk, F.CHUNK_INFO_FLAGS.hasCrc32) ? at(this.#data, chunk) : undefined
  }
  /** First chunk that ends beyond `offset`; `count` when there is none. */
  firstEndingAfter(offset: number): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.offset(middle) + this.size(middle) > offset) high = middle
      else low = middle + 1
    }
    return low
  }
  /** First chunk that starts at or beyond `offset`; `count` when there is none. */
  firstStartingAt(offset: number): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.offset(middle) >= offset) high = middle
      else low = middle + 1
    }
    return low
  }

  /** For the parser only. */
  set(chunk: number, info: RawInfo): void {
    this.#blocks[chunk] = info.block
    this.#sizes[chunk] = info.size
    this.#compressedOffsets[chunk] = info.compressedOffset
    this.#compressedSizes[chunk] = info.compressedSize
    this.#flags[chunk] = info.flags
    this.#data[chunk] = info.data
    if (this.#batches.length > 0) this.#batches[chunk] = info.batch
  }

  #has(chunk: number, flag: number): boolean {
    return (at(this.#flags, chunk) & flag) !== 0
  }
}

function at(column: Uint32Array | Float64Array | Uint8Array, chunk: number): number {
  return column[chunk] ?? 0
}

interface RawInfo {
  block: number
  size: number
  compressedOffset: number
  compressedSize: number
  flags: number
  data: number
  batch: number
}

/**
 * Parses and checks the uncompressed CI of a blob.
 * @throws BLOB_META_INVALID
 */
export function parseChunkInfos(blob: BlobEntry, info: Uint8Array): ChunkInfos {
  const v2 = hasFeature(blob, 'chunkInfoV2')
  const entrySize = v2 ? F.CHUNK_INFO_V2_SIZE : F.CHUNK_INFO_V1_SIZE
  const view = new StructView(info, 0, `chunk infos of blob ${blob.blobId}`, 'BLOB_META_INVALID')
  const room = Math.floor(info.length / entrySize)
  view.check(blob.chunkCount <= room, 0, 'chunk_count', blob.chunkCount, `there is room for ${room}`)
  const chunks = new ChunkInfos(blob.chunkCount, hasFeature(blob, 'batch'))
  let end = 0
  for (let chunk = 0; chunk < blob.chunkCount; chunk++) {
    const base = chunk * entrySize
    const raw = v2 ? parseV2(view, base) : parseV1(view, base)
    checkPlace(view, base, blob, raw, end)
    checkStored(view, base, blob, raw)
    end = raw.block * F.BLOCK_SIZE + raw.size
    chunks.set(chunk, raw)
  }
  return chunks
}

/** Two words: bits 20..23 of a size stand apart from its bits 0..19. */
function parseV1(view: StructView, base: number): RawInfo {
  const low = view.u32(base)
  const high = view.u32(base + 4)
  const storedLow = view.u32(base + 8)
  const storedHigh = view.u32(base + 12)
  const size = (((low >>> 8) & 0xf) << 20) + (high >>> 12) + 1
  const compressedSize = (((storedHigh >>> 8) & 0xf) << 20) + (storedHigh >>> 12) + 1
  return {
    block: ((high & 0xfff) * 0x100000 + (low >>> 12)) >>> 0,
    size,
    compressedOffset: (storedHigh & 0xff) * 0x100000000 + storedLow,
    compressedSize,
    flags: compressedSize === size ? 0 : F.CHUNK_INFO_FLAGS.compressed,
    data: 0,
    batch: 0,
  }
}

/** Three words: the uncompressed size is stored minus one, the compressed size is not. */
function parseV2(view: StructView, base: number): RawInfo {
  const high = view.u32(base + 4)
  const storedHigh = view.u32(base + 12)
  return {
    block: view.u32(base),
    size: (high & 0xffffff) + 1,
    compressedOffset: (storedHigh & 0xff) * 0x100000000 + view.u32(base + 8),
    compressedSize: storedHigh >>> 8,
    flags: high >>> 24,
    data: view.u32(base + 16),
    batch: view.u32(base + 20),
  }
}

function checkPlace(
  view: StructView,
  base: number,
  blob: BlobEntry,
  raw: RawInfo,
  previousEnd: number,
): void {
  const offset = raw.block * F.BLOCK_SIZE
  view.check(offset >= previousEnd, base, 'uncompressed_offset', offset, 'it overlaps the chunk before')
  view.check(
    raw.size <= blob.chunkSize,
    base,
    'uncompressed_size',
    raw.size,
    `chunks have ${blob.chunkSize} bytes`,
  )
  const inside = offset + raw.size <= blob.uncompressedSize
  view.check(inside, base, 'uncompressed_offset', offset, `the blob has ${blob.uncompressedSize} bytes`)
}

const FLAGS_KNOWN = Object.values(F.CHUNK_INFO_FLAGS).reduce((all, flag) => all | flag, 0)

function checkStored(view: StructView, base: number, blob: BlobEntry, raw: RawInfo): void {
  const { compressed, zran, batch, encrypted, hasCrc32 } = F.CHUNK_INFO_FLAGS
  const { flags, compressedOffset, compressedSize } = raw
  const known = (flags & ~FLAGS_KNOWN) === 0 && (flags & zran) === 0
  view.check(known, base + 7, 'flags', flags, 'flags of native chunks are expected')
  const allowed = (flags & batch) === 0 || hasFeature(blob, 'batch')
  view.check(allowed, base + 7, 'flags', flags, 'the blob is not marked as having batches')
  const decryptable = (flags & encrypted) === 0 || blob.cipher !== undefined
  view.check(decryptable, base + 7, 'flags', flags, 'the blob is not marked as encrypted')
  const crc = (flags & hasCrc32) === 0 || ((flags & batch) === 0 && raw.data !== 0)
  view.check(crc, base + 16, 'crc32', raw.data, 'a chunk with a CRC has one that is not 0')
  // The stored size of a batch stands in its context.
  if ((flags & batch) !== 0) return
  view.check(compressedSize > 0, base + 8, 'compressed_size', compressedSize, 'no chunk is stored in nothing')
  const inside = compressedOffset + compressedSize <= blob.ciOffset
  view.check(inside, base + 8, 'compressed_offset', compressedOffset, `chunk data ends at ${blob.ciOffset}`)
  const plain = (flags & (compressed | encrypted)) === 0
  view.check(
    !plain || compressedSize === raw.size,
    base + 8,
    'compressed_size',
    compressedSize,
    `an uncompressed chunk is stored in its ${raw.size} bytes`,
  )
}
