/** Chunk records of RAFS v5: each regular file carries its own, 80 bytes each, after its inode (RAFS v5, chunk). */
import type { ByteSource } from '../../common/byte-source.js'
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
import { BlobPool } from '../blob-pool.js'
import { LoadedChunk } from '../load-chunks.js'
import { readStruct, type StructView } from '../struct-view.js'
import type { BlobTableV5 } from './blob-table.js'
import { INODE_FLAGS, INODE_OFF } from './format.js'
import type { InodeRecord } from './inode.js'

const RECORDS_AT_ONCE = 512
/** Digests of chunks that are kept in one array. */
const DIGESTS_AT_ONCE = 1024
const KNOWN_FLAGS = Object.values(CHUNK_FLAGS).reduce((all, bit) => all | bit, 0)

/** Reads the chunks of files; those that several files or records share become one object. */
export class ChunkRecords {
  readonly #source: ByteSource
  readonly #table: BlobTableV5
  readonly #chunkSize: number
  /** By blob, then by chunk index. */
  readonly #byIndex: readonly (ImageChunk | undefined)[][]
  /** By blob, then by stored offset, in images whose chunks have no index. */
  readonly #byOffset: readonly Map<number, ImageChunk>[]
  #digests = new Uint8Array(0)
  #digestsEnd = 0

  constructor(source: ByteSource, table: BlobTableV5, chunkSize: number, pool = new BlobPool()) {
    this.#source = source
    this.#table = table
    this.#chunkSize = chunkSize
    // Whatever count a blob claims, the file has no room for more records than this.
    const room = Math.floor(source.sizeBytes / CHUNK_RECORD_SIZE)
    this.#byIndex = table.blobs.map(blob => pool.chunksOf(blob, Math.min(blob.chunkCount, room)))
    this.#byOffset = table.blobs.map(() => new Map<number, ImageChunk>())
  }

  /**
   * The chunks of a regular file, in order. Their digests are put into `digests`, if given.
   * @throws RAFS_FIELD, RAFS_UNSUPPORTED, RAFS_TRUNCATED
   */
  read(record: InodeRecord, digests?: Uint8Array): ImageChunk[] {
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
    // With the length it needs: an array that grows has room for seventeen.
    const chunks = new Array<ImageChunk>(childCount)
    for (let first = 0; first < childCount; first += RECORDS_AT_ONCE) {
      const count = Math.min(RECORDS_AT_ONCE, childCount - first)
      const offset = view.at + record.length + first * CHUNK_RECORD_SIZE
      const records = readStruct(this.#source, offset, count * CHUNK_RECORD_SIZE, 'chunks')
      for (let i = 0; i < count; i++) {
        const base = i * CHUNK_RECORD_SIZE
        digests?.set(records.bytes.subarray(base, base + DIGEST_SIZE), (first + i) * DIGEST_SIZE)
        chunks[first + i] = this.#chunk(records, base, record, (first + i) * this.#chunkSize)
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
    if (size !== wanted)
      throw view.bad(base + O.uncompressedSize, 'uncompressed_size', size, `${wanted} is expected`)
    const blobIndex = view.u32(base + O.blobIndex)
    const blob = this.#table.blobs[blobIndex]
    if (blob === undefined) {
      const why = `the image has ${this.#table.blobs.length} blobs`
      throw view.bad(base + O.blobIndex, 'blob_index', blobIndex, why)
    }
    return this.#table.extended
      ? this.#indexed(view, base, blob, blobIndex)
      : this.#stored(view, base, blob, blobIndex)
  }

  #indexed(view: StructView, base: number, blob: ImageBlob, blobIndex: number): ImageChunk {
    const index = view.u32(base + CHUNK_OFF.index)
    const dictionary = (blob.features & BLOB_FEATURES.chunkdictGenerated) !== 0
    const count = dictionary ? MAX_CHUNKS_PER_BLOB : blob.chunkCount
    if (index >= count) throw view.bad(base + CHUNK_OFF.index, 'index', index, `the blob has ${count} chunks`)
    const chunk = this.#parse(view, base, blob, index)
    checkInBlob(view, base, chunk)
    const chunks = this.#byIndex[blobIndex] ?? []
    const known = chunks[index]
    if (known !== undefined) return sameChunk(view, base, chunk, known)
    this.#digestsEnd += DIGEST_SIZE
    return (chunks[index] = chunk)
  }

  /** Chunks without an index get one in the order in which files refer to them. */
  #stored(view: StructView, base: number, blob: ImageBlob, blobIndex: number): ImageChunk {
    const chunks = this.#byOffset[blobIndex] ?? new Map<number, ImageChunk>()
    const chunk = this.#parse(view, base, blob, chunks.size)
    const known = chunks.get(chunk.compressedOffset)
    if (known !== undefined) return sameChunk(view, base, chunk, known)
    this.#digestsEnd += DIGEST_SIZE
    chunks.set(chunk.compressedOffset, chunk)
    extendBlob(blob, chunk)
    return chunk
  }

  /** Its digest stands at `#digestsEnd`, until that moves on. */
  #parse(view: StructView, base: number, blob: ImageBlob, index: number): ImageChunk {
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
    if (this.#digestsEnd === this.#digests.length) {
      this.#digests = new Uint8Array(DIGESTS_AT_ONCE * DIGEST_SIZE)
      this.#digestsEnd = 0
    }
    this.#digests.set(view.bytes.subarray(base, base + DIGEST_SIZE), this.#digestsEnd)
    const chunk = new LoadedChunk(
      blob,
      index,
      view.u64(base + O.uncompressedOffset, 'uncompressed_offset'),
      view.u32(base + O.uncompressedSize),
      this.#digests,
      this.#digestsEnd,
    )
    chunk.compressedOffset = view.u64(base + O.compressedOffset, 'compressed_offset')
    chunk.compressedSize = view.u32(base + O.compressedSize)
    if (hasCrc) chunk.crc32 = crc32
    checkStored(view, base, chunk, (flags & CHUNK_FLAGS.compressed) !== 0)
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
  if (ok) return
  const why = compressed ? `1 to ${uncompressedSize - 1}` : String(uncompressedSize)
  throw view.bad(base + CHUNK_OFF.compressedSize, 'compressed_size', compressedSize, `${why} is expected`)
}

function checkInBlob(view: StructView, base: number, chunk: ImageChunk): void {
  const { blob, compressedOffset, compressedSize, uncompressedOffset, uncompressedSize } = chunk
  const O = CHUNK_OFF
  if (uncompressedOffset + uncompressedSize > blob.uncompressedSize) {
    const why = `the blob has ${blob.uncompressedSize} bytes`
    throw view.bad(base + O.uncompressedOffset, 'uncompressed_offset', uncompressedOffset, why)
  }
  if (blob.compressor !== 'gzip' && compressedOffset + compressedSize > blob.compressedSize) {
    const why = `the stored blob has ${blob.compressedSize} bytes`
    throw view.bad(base + O.compressedOffset, 'compressed_offset', compressedOffset, why)
  }
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
