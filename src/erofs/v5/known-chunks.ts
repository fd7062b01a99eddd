/**
 * What is known of the chunks of one RAFS v5 blob. The blob itself says nothing of them, only the records of files do, and
 * an image has no records of chunks whose files an upper layer deleted or replaced.
 */
import { fault } from '../../common/fault.js'
import { DIGEST_SIZE } from '../format.js'
import { readU32, readU64 } from '../struct-view.js'
import { writeU64 } from '../write-u64.js'
import type { ChunkRecord } from './chunk-record.js'

/** A chunk takes so many bytes of memory. */
const ROW_SIZE = 60
const ROW_OFF = {
  digest: 0, // 32 bytes
  compressedSize: 32, // u32
  uncompressedSize: 36, // u32
  compressedOffset: 40, // u64
  uncompressedOffset: 48, // u64
  index: 56, // u32
} as const

/** Takes records in any order, as often as files refer to their chunks. */
export class ChunkRows {
  #rows = Buffer.alloc(ROW_SIZE * 64)
  #end = 0

  add(record: ChunkRecord): void {
    if (this.#end === this.#rows.length) {
      const grown = Buffer.alloc(this.#rows.length * 2)
      grown.set(this.#rows)
      this.#rows = grown
    }
    const rows = this.#rows
    const at = this.#end
    rows.set(record.digest, at + ROW_OFF.digest)
    rows.writeUInt32LE(record.compressedSize, at + ROW_OFF.compressedSize)
    rows.writeUInt32LE(record.uncompressedSize, at + ROW_OFF.uncompressedSize)
    writeU64(rows, at + ROW_OFF.compressedOffset, record.compressedOffset)
    writeU64(rows, at + ROW_OFF.uncompressedOffset, record.uncompressedOffset)
    rows.writeUInt32LE(record.index, at + ROW_OFF.index)
    this.#end += ROW_SIZE
  }

  /** @throws BLOB_META_INVALID when the records contradict each other. @param blobId - for that complaint */
  finish(blobId: string): KnownChunks {
    return KnownChunks.of(this.#rows.subarray(0, this.#end), blobId)
  }
}

/** The chunks in the order of their indexes; a row is the place of one in this order. */
export class KnownChunks {
  readonly count: number
  readonly #rows: Buffer
  readonly #blobId: string

  private constructor(rows: Buffer, blobId: string) {
    this.count = rows.length / ROW_SIZE
    this.#rows = rows
    this.#blobId = blobId
  }

  /** Sorted, each chunk once. */
  static of(rows: Buffer, blobId: string): KnownChunks {
    const count = rows.length / ROW_SIZE
    // Sorted as plain numbers: with a function to compare them it would take twenty times as long.
    const keys = new Float64Array(count)
    for (let row = 0; row < count; row++) keys[row] = indexOf(rows, row) * MAX_ROWS + row
    keys.sort()
    const sorted = Buffer.alloc(rows.length)
    let end = 0
    for (const key of keys) {
      const at = (key % MAX_ROWS) * ROW_SIZE
      const known = end > 0 && indexOf(sorted, end / ROW_SIZE - 1) === Math.floor(key / MAX_ROWS)
      if (!known) end += rows.copy(sorted, end, at, at + ROW_SIZE)
      else if (sorted.compare(rows, at, at + ROW_SIZE, end - ROW_SIZE, end) !== 0)
        throw contradiction(blobId, Math.floor(key / MAX_ROWS), 'two files say different things of it')
    }
    const chunks = new KnownChunks(
      end === sorted.length ? sorted : Buffer.from(sorted.subarray(0, end)),
      blobId,
    )
    chunks.#checkOrder()
    return chunks
  }

  /** What two images know of the same blob. @throws BLOB_META_INVALID */
  with(other: KnownChunks): KnownChunks {
    return KnownChunks.of(Buffer.concat([this.#rows, other.#rows]), this.#blobId)
  }

  /** The row of the last known chunk up to this one; -1 where there is none. */
  floor(chunk: number): number {
    return this.lastWhere(row => this.index(row) <= chunk)
  }

  /** The last row that passes a test which rows pass up to some row and not beyond; -1 for none. */
  lastWhere(test: (row: number) => boolean): number {
    let low = -1
    let high = this.count - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (test(middle)) low = middle
      else high = middle - 1
    }
    return low
  }

  index(row: number): number {
    return indexOf(this.#rows, row)
  }
  uncompressedOffset(row: number): number {
    return readU64(this.#rows, row * ROW_SIZE + ROW_OFF.uncompressedOffset)
  }
  uncompressedSize(row: number): number {
    return readU32(this.#rows, row * ROW_SIZE + ROW_OFF.uncompressedSize)
  }
  compressedOffset(row: number): number {
    return readU64(this.#rows, row * ROW_SIZE + ROW_OFF.compressedOffset)
  }
  compressedSize(row: number): number {
    return readU32(this.#rows, row * ROW_SIZE + ROW_OFF.compressedSize)
  }
  digest(row: number): Uint8Array {
    const at = row * ROW_SIZE + ROW_OFF.digest
    return this.#rows.subarray(at, at + DIGEST_SIZE)
  }

  /** Addresses in cache files follow from offsets and indexes that ascend together. */
  #checkOrder(): void {
    for (let row = 1; row < this.count; row++) {
      const end = this.uncompressedOffset(row - 1) + this.uncompressedSize(row - 1)
      if (this.uncompressedOffset(row) < end)
        throw contradiction(
          this.#blobId,
          this.index(row),
          `it begins before the one before it ends, at ${end}`,
        )
    }
  }
}

/** More than the records of any bootstrap. */
const MAX_ROWS = 2 ** 27

function indexOf(rows: Buffer, row: number): number {
  return readU32(rows, row * ROW_SIZE + ROW_OFF.index)
}

function contradiction(blobId: string, chunk: number, why: string): Error {
  return fault(
    'BLOB_META_INVALID',
    `the bootstrap contradicts itself about chunk ${chunk} of blob ${blobId}: ${why}; fetch the image again`,
    { context: { blobId, chunk } },
  )
}
