/** Chunk records of RAFS v5: each regular file carries its own, 80 bytes each, after its inode (RAFS v5, chunk). */
import type { ByteSource } from '../../common/byte-source.js'
import type { Hasher } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import {
  BLOB_FEATURES,
  CHUNK_FLAGS,
  CHUNK_OFF,
  CHUNK_RECORD_SIZE,
  DIGEST_SIZE,
  MAX_CHUNKS_PER_BLOB,
} from '../format.js'
import type { ImageBlob, ImageChunk } from '../image-tree.js'
import { readStruct, type StructView } from '../struct-view.js'
import type { BlobTableV5 } from './blob-table.js'
import { INODE_FLAGS, INODE_OFF } from './format.js'
import type { InodeRecord } from './inode.js'

const RECORDS_AT_ONCE = 512
const KNOWN_FLAGS = Object.values(CHUNK_FLAGS).reduce((all, bit) => all | bit, 0)

/** Reads the chunks of files; those that several files or records share become one object. */
export class ChunkRecords {
  readonly #source: ByteSource
  readonly #table: BlobTableV5
  readonly #chunkSize: number
  /** By blob index, then by chunk index, or by stored offset in images whose chunks have no index. */
  readonly #known: Map<number, ImageChunk>[]

  constructor(source: ByteSource, table: BlobTableV5, chunkSize: number) {
    this.#source = source
    this.#table = table
    this.#chunkSize = chunkSize
    this.#known = table.blobs.map(() => new Map<number, ImageChunk>())
  }

  /**
   * The chunks of a regular file, in order. `hasher` is given their digests.
   * @throws RAFS_FIELD, RAFS_UNSUPPORTED, RAFS_TRUNCATED
   */
  read(record: InodeRecord, hasher?: Hasher): ImageChunk[] {
    const { childCount, sizeBytes, view } = record
    const expected = Math.ceil(sizeBytes / this.#chunkSize)
    if (childCount !== expected) {
      if (record.hasHole) throw holes(record)
      throw view.bad(
        INODE_OFF.childCount,
        'i_child_count',
        childCount,
        `${sizeBytes} bytes take ${expected} chunks`,
      )
    }
    const chunks: ImageChunk[] = []
    for (let first = 0; first < childCount; first += RECORDS_AT_ONCE) {
      const count = Math.min(RECORDS_AT_ONCE, childCount - first)
      const offset = view.at + record.length + first * CHUNK_RECORD_SIZE
      const what = `chunks ${first} to ${first + count - 1} of the inode at byte ${view.at}`
      const records = readStruct(this.#source, offset, count * CHUNK_RECORD_SIZE, what)
      for (let i = 0; i < count; i++) {
        const base = i * CHUNK_RECORD_SIZE
        hasher?.update(records.bytes.subarray(base, base + DIGEST_SIZE))
        chunks.push(this.#chunk(records, base, record, (first + i) * this.#chunkSize))
      }
    }
    return chunks
  }

  #chunk(view: StructView, base: number, file: InodeRecord, fileOffset: number): ImageChunk {
    const O = CHUNK_OFF
    const at = view.u64(base + O.fileOffset, 'file_offset')
    if (at !== fileOffset) {
      if (file.hasHole) throw holes(file)
      throw view.bad(base + O.fileOffset, 'file_offset', at, `${fileOffset} is expected`)
    }
    const size = view.u32(base + O.uncompressedSize)
    const wanted = Math.min(this.#chunkSize, file.sizeBytes - fileOffset)
    view.check(size === wanted, base + O.uncompressedSize, 'uncompressed_size', size, `${wanted} is expected`)
    const blobIndex = view.u32(base + O.blobIndex)
    const blob = this.#table.blobs[blobIndex]
    const known = this.#known[blobIndex]
    if (blob === undefined || known === undefined)
      throw view.bad(
        base + O.blobIndex,
        'blob_index',
        blobIndex,
        `the image has ${this.#table.blobs.length} blobs`,
      )
    const chunk = this.#parse(view, base, blob, known.size)
    const key = this.#table.extended ? chunk.index : chunk.compressedOffset
    const first = known.get(key)
    if (first !== undefined) return sameChunk(view, base, chunk, first)
    known.set(key, chunk)
    if (!this.#table.extended) extendBlob(blob, chunk)
    return chunk
  }

  #parse(view: StructView, base: number, blob: ImageBlob, nextIndex: number): ImageChunk {
    const O = CHUNK_OFF
    const flags = view.u32(base + O.flags)
    view.check(
      (flags & ~KNOWN_FLAGS) === 0,
      base + O.flags,
      'flags',
      flags,
      'nothing but bits 0 to 4 is expected',
    )
    if ((flags & (CHUNK_FLAGS.batch | CHUNK_FLAGS.encrypted | CHUNK_FLAGS.hole)) !== 0)
      throw unsupported(view, base + O.flags, flags, 'a chunk that is a hole, encrypted or part of a batch')
    const hasCrc = (flags & CHUNK_FLAGS.hasCrc32) !== 0
    const crc32 = view.u32(base + O.crc32)
    view.check(!hasCrc || crc32 !== 0, base + O.crc32, 'crc32', crc32, 'the record says that it has one')
    const chunk: ImageChunk = {
      blob,
      index: this.#table.extended ? view.u32(base + O.index) : nextIndex,
      digest: hex(view.bytes, base),
      uncompressedOffset: view.u64(base + O.uncompressedOffset, 'uncompressed_offset'),
      uncompressedSize: view.u32(base + O.uncompressedSize),
      compressedOffset: view.u64(base + O.compressedOffset, 'compressed_offset'),
      compressedSize: view.u32(base + O.compressedSize),
      ...(hasCrc ? { crc32 } : {}),
    }
    checkStored(view, base, chunk, (flags & CHUNK_FLAGS.compressed) !== 0)
    if (this.#table.extended) checkInBlob(view, base, chunk)
    return chunk
  }
}

/** Sizes in stargz images are estimates; everywhere else a chunk is compressed only where that makes it smaller. */
function checkStored(view: StructView, base: number, chunk: ImageChunk, compressed: boolean): void {
  const { compressedSize, uncompressedSize, blob } = chunk
  if (blob.compressor === 'gzip') return
  const ok = compressed
    ? compressedSize > 0 && compressedSize < uncompressedSize
    : compressedSize === uncompressedSize
  const why = compressed ? `1 to ${uncompressedSize - 1}` : String(uncompressedSize)
  view.check(ok, base + CHUNK_OFF.compressedSize, 'compressed_size', compressedSize, `${why} is expected`)
}

function checkInBlob(view: StructView, base: number, chunk: ImageChunk): void {
  const { blob, index, compressedOffset, compressedSize, uncompressedOffset, uncompressedSize } = chunk
  const O = CHUNK_OFF
  const dictionary = (blob.features & BLOB_FEATURES.chunkdictGenerated) !== 0
  const count = dictionary ? MAX_CHUNKS_PER_BLOB : blob.chunkCount
  view.check(index < count, base + O.index, 'index', index, `the blob has ${count} chunks`)
  view.check(
    uncompressedOffset + uncompressedSize <= blob.uncompressedSize,
    base + O.uncompressedOffset,
    'uncompressed_offset',
    uncompressedOffset,
    `the blob has ${blob.uncompressedSize} bytes`,
  )
  view.check(
    blob.compressor === 'gzip' || compressedOffset + compressedSize <= blob.compressedSize,
    base + O.compressedOffset,
    'compressed_offset',
    compressedOffset,
    `the stored blob has ${blob.compressedSize} bytes`,
  )
}

/** What an image without an extended blob table says of its blobs is what their chunks say. */
function extendBlob(blob: ImageBlob, chunk: ImageChunk): void {
  blob.chunkCount++
  blob.uncompressedSize = Math.max(blob.uncompressedSize, chunk.uncompressedOffset + chunk.uncompressedSize)
  blob.compressedSize = Math.max(blob.compressedSize, chunk.compressedOffset + chunk.compressedSize)
}

const SAME_FIELDS = [
  ['digest', CHUNK_OFF.digest],
  ['uncompressedOffset', CHUNK_OFF.uncompressedOffset],
  ['uncompressedSize', CHUNK_OFF.uncompressedSize],
  ['compressedOffset', CHUNK_OFF.compressedOffset],
  ['compressedSize', CHUNK_OFF.compressedSize],
  ['crc32', CHUNK_OFF.crc32],
] as const

/** The records of one chunk agree wherever they stand. */
function sameChunk(view: StructView, base: number, chunk: ImageChunk, first: ImageChunk): ImageChunk {
  for (const [field, offset] of SAME_FIELDS) {
    if (chunk[field] !== first[field])
      throw view.bad(
        base + offset,
        field,
        chunk[field] ?? 0,
        `another record of chunk ${chunk.index} says ${first[field] ?? 0}`,
      )
  }
  return first
}

function holes(file: InodeRecord): Error {
  return unsupported(file.view, INODE_OFF.flags, INODE_FLAGS.hasHole, 'a file with holes')
}

function unsupported(view: StructView, offset: number, value: number, what: string): Error {
  const at = view.at + offset
  return fault(
    'RAFS_UNSUPPORTED',
    `the RAFS v5 image has ${what} (flags at byte ${at}), which this release does not read: convert it to RAFS v6`,
    { context: { field: 'flags', offset: at, value } },
  )
}

function hex(bytes: Uint8Array, base: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + base, DIGEST_SIZE).toString('hex')
}
