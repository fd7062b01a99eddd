/**
 * Chunk table: digest (and CRC-32C) of every chunk that the image's files use (RAFS v6 bootstrap, chunk table). A merged
 * bootstrap has no record of chunks whose files were deleted or replaced by an upper layer.
 */
import type { ByteSource } from '../common/byte-source.js'
import type { BlobEntry } from './blob-table.js'
import { hasFeature } from './blob-table.js'
import * as F from './format.js'
import { badField, readStruct, type StructView } from './struct-view.js'
import type { Table } from './superblock.js'

/** What a chunk is checked against. */
export interface ChunkChecks {
  /** 32 bytes, or undefined where the bootstrap does not know the chunk. */
  digest(chunk: number): Uint8Array | undefined
  /** CRC-32C of the uncompressed chunk, or undefined where none is recorded. */
  crc32c(chunk: number): number | undefined
}

/** The records of one blob, in typed arrays that grow with the table's own size, whatever counts the image claims. */
export class ChunkDigests implements ChunkChecks {
  /** Ascending. */
  readonly #chunks: Uint32Array
  readonly #digests: Uint8Array
  readonly #crcs: Uint32Array

  constructor(chunks: Uint32Array, digests: Uint8Array, crcs: Uint32Array) {
    this.#chunks = chunks
    this.#digests = digests
    this.#crcs = crcs
  }

  /** Digests in chunk order without gaps: the content of a blob's `blob.digest` section. */
  static dense(digests: Uint8Array): ChunkDigests {
    const count = Math.floor(digests.length / F.DIGEST_SIZE)
    return new ChunkDigests(
      Uint32Array.from({ length: count }, (_, i) => i),
      digests,
      new Uint32Array(count),
    )
  }

  /** Number of chunks that have a record. */
  get size(): number {
    return this.#chunks.length
  }

  /** Undefined also for the all-zero digest that some builders write for "unknown". */
  digest(chunk: number): Uint8Array | undefined {
    const at = this.#find(chunk)
    if (at < 0) return undefined
    const digest = this.#digests.subarray(at * F.DIGEST_SIZE, (at + 1) * F.DIGEST_SIZE)
    return digest.some(byte => byte !== 0) ? digest : undefined
  }

  crc32c(chunk: number): number | undefined {
    const at = this.#find(chunk)
    // A record with the flag and a CRC of 0 was refused when the table was read.
    return at < 0 ? undefined : this.#crcs[at] || undefined
  }

  #find(chunk: number): number {
    let low = 0
    let high = this.#chunks.length - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const value = this.#chunks[middle] ?? 0
      if (value === chunk) return middle
      if (value < chunk) low = middle + 1
      else high = middle - 1
    }
    return -1
  }
}

const RECORDS_AT_ONCE = 4096

/**
 * Reads the whole table, one ChunkDigests for each blob.
 * @throws RAFS_FIELD, RAFS_TRUNCATED
 */
export function readChunkTable(
  source: ByteSource,
  table: Table,
  blobs: readonly BlobEntry[],
): ChunkDigests[] {
  const counts = new Uint32Array(blobs.length)
  for (const { blobIndex } of recordsOf(source, table, blobs))
    counts[blobIndex] = (counts[blobIndex] ?? 0) + 1
  const all = Array.from(counts, count => new BlobRecords(count))
  for (const { view, base, blobIndex } of recordsOf(source, table, blobs)) all[blobIndex]?.add(view, base)
  return all.map((records, blobIndex) => {
    const { digests, doubtful } = records.sorted()
    if (doubtful !== undefined) throw contradiction(source, table, blobs, blobIndex, doubtful)
    return digests
  })
}

/** The records of one blob as they come, which is in the order of its chunks where one tool wrote them all. */
class BlobRecords {
  readonly #chunks: Uint32Array
  readonly #digests: Uint8Array
  readonly #crcs: Uint32Array
  #count = 0
  #ascending = true

  constructor(count: number) {
    this.#chunks = new Uint32Array(count)
    this.#digests = new Uint8Array(count * F.DIGEST_SIZE)
    this.#crcs = new Uint32Array(count)
  }

  add(view: StructView, base: number): void {
    const at = this.#count++
    const chunk = view.u32(base + F.CHUNK_OFF.index)
    if (at > 0 && chunk <= (this.#chunks[at - 1] ?? 0)) this.#ascending = false
    this.#chunks[at] = chunk
    for (let i = 0; i < F.DIGEST_SIZE; i++)
      this.#digests[at * F.DIGEST_SIZE + i] = view.u8(base + F.CHUNK_OFF.digest + i)
    const flags = view.u32(base + F.CHUNK_OFF.flags)
    this.#crcs[at] = (flags & F.CHUNK_FLAGS.hasCrc32) !== 0 ? view.u32(base + F.CHUNK_OFF.crc32) : 0
  }

  /** In the order of chunks, each once. `doubtful`: a chunk that two records tell different digests of. */
  sorted(): { readonly digests: ChunkDigests; readonly doubtful?: number } {
    if (this.#ascending) return { digests: new ChunkDigests(this.#chunks, this.#digests, this.#crcs) }
    // One number sorts by chunk index and remembers the record.
    const total = this.#count
    const keys = Float64Array.from(this.#chunks, (chunk, at) => chunk * total + at).sort()
    const chunks = new Uint32Array(total)
    const digests = new Uint8Array(total * F.DIGEST_SIZE)
    const crcs = new Uint32Array(total)
    let count = 0
    let doubtful: number | undefined
    for (const key of keys) {
      const chunk = Math.floor(key / total)
      const from = key % total
      const digest = this.#digests.subarray(from * F.DIGEST_SIZE, (from + 1) * F.DIGEST_SIZE)
      if (count > 0 && chunks[count - 1] === chunk) {
        const before = digests.subarray((count - 1) * F.DIGEST_SIZE, count * F.DIGEST_SIZE)
        if (Buffer.compare(before, digest) !== 0) doubtful ??= chunk
        continue
      }
      chunks[count] = chunk
      digests.set(digest, count * F.DIGEST_SIZE)
      crcs[count] = this.#crcs[from] ?? 0
      count++
    }
    return {
      digests: new ChunkDigests(
        chunks.subarray(0, count),
        digests.subarray(0, count * F.DIGEST_SIZE),
        crcs.subarray(0, count),
      ),
      ...(doubtful === undefined ? {} : { doubtful }),
    }
  }
}

/** The fault of the second record of a chunk. */
function contradiction(
  source: ByteSource,
  table: Table,
  blobs: readonly BlobEntry[],
  blobIndex: number,
  chunk: number,
): Error {
  const why = 'two records give this chunk different digests'
  let first = true
  for (const record of recordsOf(source, table, blobs)) {
    const { view, base } = record
    if (record.blobIndex !== blobIndex || view.u32(base + F.CHUNK_OFF.index) !== chunk) continue
    if (!first) return view.bad(base + F.CHUNK_OFF.index, 'index', chunk, why)
    first = false
  }
  return badField('RAFS_FIELD', 'chunk table', table.offset, 'index', chunk, why)
}

/** Returns the index of its blob. */
function checkRecord(view: StructView, base: number, blobs: readonly BlobEntry[]): number {
  const blobIndex = view.u32(base + F.CHUNK_OFF.blobIndex)
  const blob = blobs[blobIndex]
  if (blob === undefined)
    throw view.bad(
      base + F.CHUNK_OFF.blobIndex,
      'blob_index',
      blobIndex,
      `the image has ${blobs.length} blobs`,
    )
  const chunk = view.u32(base + F.CHUNK_OFF.index)
  const limit = hasFeature(blob, 'chunkdictGenerated') ? F.MAX_CHUNKS_PER_BLOB : blob.chunkCount
  view.check(chunk < limit, base + F.CHUNK_OFF.index, 'index', chunk, `the blob has ${limit} chunks`)
  const hasCrc = (view.u32(base + F.CHUNK_OFF.flags) & F.CHUNK_FLAGS.hasCrc32) !== 0
  const crc = view.u32(base + F.CHUNK_OFF.crc32)
  view.check(!hasCrc || crc !== 0, base + F.CHUNK_OFF.crc32, 'crc32', crc, 'the record says that it has one')
  return blobIndex
}

/** One record: `base` is its offset in the view. */
export interface ChunkRecord {
  readonly view: StructView
  readonly base: number
  readonly blobIndex: number
}

/**
 * Every record in the order of the table, its blob, index and CRC checked; the memory of a view is used again.
 * @throws RAFS_FIELD, RAFS_TRUNCATED
 */
export function* recordsOf(
  source: ByteSource,
  table: Table,
  blobs: readonly BlobEntry[],
): Generator<ChunkRecord, void, undefined> {
  const step = Math.min(RECORDS_AT_ONCE * F.CHUNK_RECORD_SIZE, table.size)
  const memory = source.readInto && new Uint8Array(step)
  for (let done = 0; done < table.size; done += step) {
    const length = Math.min(step, table.size - done)
    const view = readStruct(source, table.offset + done, length, 'chunk table', memory)
    for (let base = 0; base < length; base += F.CHUNK_RECORD_SIZE)
      yield { view, base, blobIndex: checkRecord(view, base, blobs) }
  }
}
