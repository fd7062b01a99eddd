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
import type { ImageBlob } from '../image-tree.js'
import { readStruct, type StructView } from '../struct-view.js'
import type { BlobTableV5 } from './blob-table.js'
import { INODE_FLAGS, INODE_OFF } from './format.js'
import type { InodeRecord } from './inode.js'

const RECORDS_AT_ONCE = 512
const KNOWN_FLAGS = Object.values(CHUNK_FLAGS).reduce((all, bit) => all | bit, 0)

/** What a file says of one of its chunks. */
export interface ChunkRecord {
  readonly blobIndex: number
  readonly blob: ImageBlob
  /** Index in its blob; means nothing in images without an extended blob table. */
  readonly index: number
  readonly fileOffset: number
  /** In the blob's packed uncompressed bytes: it need not be aligned. */
  readonly uncompressedOffset: number
  readonly uncompressedSize: number
  readonly compressedOffset: number
  /** Equal to `uncompressedSize` where the chunk is stored raw. */
  readonly compressedSize: number
  readonly crc32: number | undefined
  /** 32 bytes that share memory. */
  readonly digest: Uint8Array
  /** The fault for a field of the record; `offset` is the field's in the record. */
  bad(offset: number, field: string, value: number | string, why: string): Error
}

/** What the records of an image are read with. */
export interface ChunkContext {
  readonly source: ByteSource
  readonly table: BlobTableV5
  readonly chunkSize: number
}

/**
 * Calls `use` for the chunks [first, end) of a regular file, in order, each checked by itself and against file and blob.
 * @throws RAFS_FIELD, RAFS_UNSUPPORTED, RAFS_TRUNCATED
 */
export function visitChunks(
  context: ChunkContext,
  file: InodeRecord,
  first: number,
  end: number,
  use: (chunk: ChunkRecord) => void,
): void {
  checkCount(context, file)
  const start = file.chunksOffset()
  for (let next = first; next < end; next += RECORDS_AT_ONCE) {
    const count = Math.min(RECORDS_AT_ONCE, end - next)
    const view = readStruct(
      context.source,
      start + next * CHUNK_RECORD_SIZE,
      count * CHUNK_RECORD_SIZE,
      'chunks',
    )
    for (let i = 0; i < count; i++) use(parseChunk(context, view, i * CHUNK_RECORD_SIZE, file, next + i))
  }
}

function checkCount({ chunkSize }: ChunkContext, file: InodeRecord): void {
  const { childCount, sizeBytes, view } = file
  const expected = Math.ceil(sizeBytes / chunkSize)
  if (childCount === expected) return
  if (file.hasHole) throw holes(file)
  const why = `${sizeBytes} bytes take ${expected} chunks`
  throw view.bad(INODE_OFF.childCount, 'i_child_count', childCount, why)
}

function parseChunk(
  { table, chunkSize }: ChunkContext,
  view: StructView,
  base: number,
  file: InodeRecord,
  place: number,
): ChunkRecord {
  const O = CHUNK_OFF
  const fileOffset = view.u64(base + O.fileOffset, 'file_offset')
  const expected = place * chunkSize
  if (fileOffset !== expected) {
    if (file.hasHole) throw holes(file)
    throw view.bad(base + O.fileOffset, 'file_offset', fileOffset, `${expected} is expected`)
  }
  const uncompressedSize = view.u32(base + O.uncompressedSize)
  const wanted = Math.min(chunkSize, file.sizeBytes - fileOffset)
  if (uncompressedSize !== wanted)
    throw view.bad(base + O.uncompressedSize, 'uncompressed_size', uncompressedSize, `${wanted} is expected`)
  const blobIndex = view.u32(base + O.blobIndex)
  const blob = table.blobs[blobIndex]
  if (blob === undefined)
    throw view.bad(base + O.blobIndex, 'blob_index', blobIndex, `the image has ${table.blobs.length} blobs`)
  const flags = parseFlags(view, base)
  const chunk: ChunkRecord = {
    blobIndex,
    blob,
    index: view.u32(base + O.index),
    fileOffset,
    uncompressedOffset: view.u64(base + O.uncompressedOffset, 'uncompressed_offset'),
    uncompressedSize,
    compressedOffset: view.u64(base + O.compressedOffset, 'compressed_offset'),
    compressedSize: view.u32(base + O.compressedSize),
    crc32: (flags & CHUNK_FLAGS.hasCrc32) === 0 ? undefined : view.u32(base + O.crc32),
    digest: view.bytes.subarray(base, base + DIGEST_SIZE),
    bad: (offset, field, value, why) => view.bad(base + offset, field, value, why),
  }
  if (chunk.crc32 === 0) throw chunk.bad(O.crc32, 'crc32', 0, 'the record says that it has one')
  checkStored(chunk, (flags & CHUNK_FLAGS.compressed) !== 0)
  // Images without that table say nothing of their blobs but what the records say.
  if (table.extended) checkInBlob(chunk)
  return chunk
}

function parseFlags(view: StructView, base: number): number {
  const at = base + CHUNK_OFF.flags
  const flags = view.u32(at)
  if ((flags & ~KNOWN_FLAGS) !== 0) throw view.bad(at, 'flags', flags, 'nothing but bits 0 to 4 is expected')
  if ((flags & (CHUNK_FLAGS.batch | CHUNK_FLAGS.encrypted | CHUNK_FLAGS.hole)) !== 0)
    throw unsupported(view.at + at, flags, 'a chunk that is a hole, encrypted or part of a batch')
  return flags
}

/** Sizes in stargz images are estimates; everywhere else a chunk is compressed only where that makes it smaller. */
function checkStored(chunk: ChunkRecord, compressed: boolean): void {
  const { compressedSize, uncompressedSize, blob } = chunk
  if (blob.compressor === 'gzip') return
  const ok = compressed
    ? compressedSize > 0 && compressedSize < uncompressedSize
    : compressedSize === uncompressedSize
  if (ok) return
  const why = compressed ? `1 to ${uncompressedSize - 1}` : String(uncompressedSize)
  throw chunk.bad(CHUNK_OFF.compressedSize, 'compressed_size', compressedSize, `${why} is expected`)
}

function checkInBlob(chunk: ChunkRecord): void {
  const { blob, index, compressedOffset, compressedSize, uncompressedOffset, uncompressedSize } = chunk
  const O = CHUNK_OFF
  const dictionary = (blob.features & BLOB_FEATURES.chunkdictGenerated) !== 0
  const count = dictionary ? MAX_CHUNKS_PER_BLOB : blob.chunkCount
  if (index >= count) throw chunk.bad(O.index, 'index', index, `the blob has ${count} chunks`)
  if (uncompressedOffset + uncompressedSize > blob.uncompressedSize) {
    const why = `the blob has ${blob.uncompressedSize} bytes`
    throw chunk.bad(O.uncompressedOffset, 'uncompressed_offset', uncompressedOffset, why)
  }
  if (blob.compressor !== 'gzip' && compressedOffset + compressedSize > blob.compressedSize) {
    const why = `the stored blob has ${blob.compressedSize} bytes`
    throw chunk.bad(O.compressedOffset, 'compressed_offset', compressedOffset, why)
  }
}

function holes(file: InodeRecord): Error {
  return unsupported(file.view.at + INODE_OFF.flags, INODE_FLAGS.hasHole, 'a file with holes')
}

function unsupported(at: number, value: number, what: string): Error {
  return fault(
    'RAFS_UNSUPPORTED',
    `the RAFS v5 image has ${what} (flags at byte ${at}), which this release does not read: convert it to RAFS v6`,
    { context: { field: 'flags', offset: at, value } },
  )
}
