/**
 * Chunk table: digest (and CRC-32C) of every chunk that the image's files use (RAFS v6 bootstrap, chunk table). A merged
 * bootstrap has no record of chunks whose files were deleted or replaced by an upper layer.
 */
import type { ByteSource } from '../common/byte-source.js'
import type { BlobEntry } from './blob-table.js'
import { hasFeature } from './blob-table.js'
import * as F from './format.js'
import { readStruct, type StructView } from './struct-view.js'
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
  const total = table.size / F.CHUNK_RECORD_SIZE
  const counts = new Uint32Array(blobs.length)
  for (const { blobIndex } of recordsOf(source, table, blobs))
    counts[blobIndex] = (counts[blobIndex] ?? 0) + 1
  // One number sorts by chunk index and remembers the record: index * total + record number.
  const keys = Array.from(counts, count => new Float64Array(count))
  const filled = new Uint32Array(blobs.length)
  let record = 0
  for (const { view, base, blobIndex } of recordsOf(source, table, blobs)) {
    const chunk = view.u32(base + F.CHUNK_OFF.index)
    const slot = filled[blobIndex] ?? 0
    const own = keys[blobIndex]
    if (own) own[slot] = chunk * total + record
    filled[blobIndex] = slot + 1
    record++
  }
  return keys.map(own => collect(source, table, own.sort(), total))
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

function collect(source: ByteSource, table: Table, keys: Float64Array, total: number): ChunkDigests {
  const chunks = new Uint32Array(keys.length)
  const digests = new Uint8Array(keys.length * F.DIGEST_SIZE)
  const crcs = new Uint32Array(keys.length)
  let count = 0
  for (const key of keys) {
    const chunk = Math.floor(key / total)
    const offset = table.offset + (key % total) * F.CHUNK_RECORD_SIZE
    const view = readStruct(source, offset, F.CHUNK_RECORD_SIZE, 'chunk table record')
    const digest = view.bytes.subarray(F.CHUNK_OFF.digest, F.CHUNK_OFF.digest + F.DIGEST_SIZE)
    if (count > 0 && chunks[count - 1] === chunk) {
      const before = digests.subarray((count - 1) * F.DIGEST_SIZE, count * F.DIGEST_SIZE)
      const same = Buffer.compare(before, digest) === 0
      view.check(same, F.CHUNK_OFF.index, 'index', chunk, 'two records give this chunk different digests')
      continue
    }
    chunks[count] = chunk
    digests.set(digest, count * F.DIGEST_SIZE)
    const flags = view.u32(F.CHUNK_OFF.flags)
    crcs[count] = (flags & F.CHUNK_FLAGS.hasCrc32) !== 0 ? view.u32(F.CHUNK_OFF.crc32) : 0
    count++
  }
  return new ChunkDigests(
    chunks.subarray(0, count),
    digests.subarray(0, count * F.DIGEST_SIZE),
    crcs.subarray(0, count),
  )
}

/** One record: `base` is its offset in the view. */
export interface ChunkRecord {
  readonly view: StructView
  readonly base: number
  readonly blobIndex: number
}

/** Every record in the order of the table, its blob, index and CRC checked. @throws RAFS_FIELD, RAFS_TRUNCATED */
export function* recordsOf(
  source: ByteSource,
  table: Table,
  blobs: readonly BlobEntry[],
): Generator<ChunkRecord, void, undefined> {
  const step = RECORDS_AT_ONCE * F.CHUNK_RECORD_SIZE
  for (let done = 0; done < table.size; done += step) {
    const length = Math.min(step, table.size - done)
    const view = readStruct(source, table.offset + done, length, 'chunk table')
    for (let base = 0; base < length; base += F.CHUNK_RECORD_SIZE)
      yield { view, base, blobIndex: checkRecord(view, base, blobs) }
  }
}
