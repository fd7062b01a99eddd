/** The chunk table of a RAFS v6 bootstrap, each record checked, and found by blob and index. */
import { type BlobEntry, hasFeature } from '../../erofs/blob-table.js'
import * as F from '../../erofs/format.js'
import type { Table } from '../../erofs/superblock.js'
import type { ExpectedChunk } from './check-blob.js'
import { badPart } from './parts.js'

const O = F.CHUNK_OFF
const FLAGS_KNOWN = Object.values(F.CHUNK_FLAGS).reduce((all, flag) => all | flag, 0)
const HASH_FACTOR = 0x9e3779b1

/** Works on the bytes as they are: a table of half a million records makes no object for any of them. */
export class CheckedChunks {
  readonly #bytes: Buffer
  readonly #table: Table
  readonly #blobs: readonly BlobEntry[]
  /** Open addressing: number of the record + 1, by blob and index. */
  readonly #slots: Uint32Array
  /** By number of the record: 1 for those that a file uses. */
  readonly #used: Uint8Array

  /** @throws RAFS_FIELD */
  constructor(bytes: Buffer, table: Table, blobs: readonly BlobEntry[]) {
    this.#bytes = bytes
    this.#table = table
    this.#blobs = blobs
    this.#used = new Uint8Array(this.count)
    this.#slots = new Uint32Array(2 ** Math.ceil(Math.log2(this.count * 2 + 1)))
    for (let record = 0; record < this.count; record++) this.#add(record)
  }

  /** Number of records. */
  get count(): number {
    return this.#table.size / F.CHUNK_RECORD_SIZE
  }

  /** Absolute offset of the record of a chunk; undefined when there is none. */
  find(blobIndex: number, index: number): number | undefined {
    const slots = this.#slots
    for (let slot = this.#hash(blobIndex, index); ; slot = (slot + 1) & (slots.length - 1)) {
      const record = slots[slot] ?? 0
      if (record === 0) return undefined
      const at = this.#at(record - 1)
      if (this.#u32(at + O.index) === index && this.#u32(at + O.blobIndex) === blobIndex) return at
    }
  }

  /** Says that a file uses the chunk of the record at this offset. */
  markUsed(at: number): void {
    this.#used[(at - this.#table.offset) / F.CHUNK_RECORD_SIZE] = 1
  }

  /**
   * Builders write a record for each chunk that a file uses, and for no other: one that is left over was a file's.
   * @throws RAFS_FIELD
   */
  requireAllUsed(): void {
    for (let record = this.#used.indexOf(0); record >= 0; record = this.#used.indexOf(0, record + 1)) {
      const at = this.#at(record)
      const blob = this.#blobs[this.#u32(at + O.blobIndex)]
      if (blob === undefined || hasFeature(blob, 'chunkdictGenerated')) continue
      throw bad(at + O.index, 'index', this.#u32(at + O.index), 'no file uses this chunk')
    }
  }

  /** A view of the digest of the record at this offset. */
  digest(at: number): Buffer {
    return this.#bytes.subarray(at + O.digest, at + O.digest + F.DIGEST_SIZE)
  }

  /** The records of a blob, in the order of the table. */
  *ofBlob(blobIndex: number): Generator<ExpectedChunk, void, undefined> {
    for (let record = 0; record < this.count; record++) {
      const at = this.#at(record)
      if (this.#u32(at + O.blobIndex) !== blobIndex) continue
      const digest = this.digest(at)
      const hasCrc = (this.#u32(at + O.flags) & F.CHUNK_FLAGS.hasCrc32) !== 0
      yield {
        index: this.#u32(at + O.index),
        digest: digest.some(byte => byte !== 0) ? digest : undefined,
        crc32: hasCrc ? this.#u32(at + O.crc32) : undefined,
        uncompressedOffset: this.#u64(at + O.uncompressedOffset),
        uncompressedSize: this.#u32(at + O.uncompressedSize),
        compressedOffset: this.#u64(at + O.compressedOffset),
        compressedSize: this.#u32(at + O.compressedSize),
      }
    }
  }

  #add(record: number): void {
    const at = this.#at(record)
    const blobIndex = this.#u32(at + O.blobIndex)
    const index = this.#u32(at + O.index)
    const blob = this.#blobs[blobIndex]
    if (blob === undefined)
      throw bad(at + O.blobIndex, 'blob_index', blobIndex, `the image has ${this.#blobs.length} blobs`)
    this.#checkRecord(at, index, blob)
    const known = this.find(blobIndex, index)
    if (known !== undefined && !this.digest(known).equals(this.digest(at)))
      throw bad(at, 'index', index, 'two records give this chunk different digests')
    if (known !== undefined) {
      this.#used[record] = 1
      return
    }
    let slot = this.#hash(blobIndex, index)
    while (this.#slots[slot] !== 0) slot = (slot + 1) & (this.#slots.length - 1)
    this.#slots[slot] = record + 1
  }

  #checkRecord(at: number, index: number, blob: BlobEntry): void {
    const limit = hasFeature(blob, 'chunkdictGenerated') ? F.MAX_CHUNKS_PER_BLOB : blob.chunkCount
    if (index >= limit) throw bad(at + O.index, 'index', index, `the blob has ${limit} chunks`)
    const flags = this.#u32(at + O.flags)
    if ((flags & ~FLAGS_KNOWN) !== 0) throw bad(at + O.flags, 'flags', flags, 'nobody knows such')
    if ((flags & F.CHUNK_FLAGS.hasCrc32) !== 0 && this.#u32(at + O.crc32) === 0)
      throw bad(at + O.crc32, 'crc32', 0, 'the flags say that there is one')
    const size = this.#u32(at + O.uncompressedSize)
    const sizeAt = at + O.uncompressedSize
    if (size === 0 || size > blob.chunkSize)
      throw bad(sizeAt, 'uncompressed_size', size, `1 to ${blob.chunkSize} is expected`)
    const offset = this.#u64(at + O.uncompressedOffset)
    if (offset % F.BLOCK_SIZE !== 0 || offset + size > blob.uncompressedSize)
      throw bad(
        at + O.uncompressedOffset,
        'uncompressed_offset',
        offset,
        `a block of the blob's ${blob.uncompressedSize} bytes is expected`,
      )
    // Those of a batch stand in the blob.
    if (hasFeature(blob, 'batch') || hasFeature(blob, 'separate')) return
    const stored = this.#u32(at + O.compressedSize)
    const storedOffset = this.#u64(at + O.compressedOffset)
    if (stored === 0 || storedOffset + stored > blob.ciOffset)
      throw bad(
        at + O.compressedSize,
        'compressed_size',
        `${stored} at ${storedOffset}`,
        `chunk data ends at ${blob.ciOffset}`,
      )
    const raw = (flags & (F.CHUNK_FLAGS.compressed | F.CHUNK_FLAGS.encrypted)) === 0
    if (raw && !hasFeature(blob, 'encrypted') && stored !== size)
      throw bad(at + O.compressedSize, 'compressed_size', stored, `it is stored raw and has ${size} bytes`)
  }

  #hash(blobIndex: number, index: number): number {
    return (Math.imul(index ^ (blobIndex << 24), HASH_FACTOR) >>> 8) & (this.#slots.length - 1)
  }

  #at(record: number): number {
    return this.#table.offset + record * F.CHUNK_RECORD_SIZE
  }

  #u32(at: number): number {
    return this.#bytes.readUInt32LE(at)
  }

  #u64(at: number): number {
    return readU64(this.#bytes, at)
  }
}

/** A u64 as a number: inexact beyond 2^53, where no size or offset of an image is. */
export function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at + 4) * 0x100000000 + bytes.readUInt32LE(at)
}

function bad(at: number, field: string, value: number | string, why: string): Error {
  return badPart('chunk table', at, field, value, why)
}
