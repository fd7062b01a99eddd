/**
 * Chunk indexes of a regular file: which chunk of which blob holds each piece of it (EROFS on-disk format, chunk-based
 * files, as RAFS v6 uses them).
 */
import type { ByteSource } from '../common/byte-source.js'
import type { BlobEntry } from './blob-table.js'
import { hasFeature } from './blob-table.js'
import * as F from './format.js'
import { tailOffset, type Inode } from './inode.js'
import { badField, fits, readStruct, type StructView } from './struct-view.js'
import type { Superblock } from './superblock.js'

/** One piece of a file: `length` bytes at `fileOffset` are a whole chunk of a blob. */
export interface FileChunk {
  readonly blobIndex: number
  readonly chunkIndex: number
  /** Where the chunk starts in the blob's uncompressed address space. */
  readonly uncompressedOffset: number
  readonly length: number
  readonly fileOffset: number
}

/** How many indexes are read at once: one piece of a cached file. */
const INDEXES_AT_ONCE = 8192

/**
 * The chunks of a regular file in file order. The step is the superblock's chunk size: `i_u` may say a larger one to the
 * kernel where chunks happen to be contiguous.
 * @throws RAFS_FIELD, RAFS_TRUNCATED
 */
export function* readFileChunks(
  source: ByteSource,
  sb: Superblock,
  blobs: readonly BlobEntry[],
  inode: Inode,
): Generator<FileChunk, void, undefined> {
  const count = chunkCount(source, sb, inode)
  for (let first = 0; first < count; first += INDEXES_AT_ONCE) {
    const view = readIndexes(source, inode, first, Math.min(INDEXES_AT_ONCE, count - first))
    const end = first + view.bytes.length / F.CHUNK_INDEX_SIZE
    for (let index = first; index < end; index++) yield parseIndex(view, first, index, sb, blobs, inode)
  }
}

/** The same for files whose chunks are all wanted: each becomes what `use` makes of it. */
export function mapFileChunks<T>(
  source: ByteSource,
  sb: Superblock,
  blobs: readonly BlobEntry[],
  inode: Inode,
  use: (chunk: FileChunk) => T,
): T[] {
  const count = chunkCount(source, sb, inode)
  if (count === 0) return []
  const view = readIndexes(source, inode, 0, count)
  // Most files have one chunk, and an array that grew has room for many.
  if (count === 1) return [use(parseIndex(view, 0, 0, sb, blobs, inode))]
  const mapped = new Array<T>(count)
  for (let index = 0; index < count; index++)
    mapped[index] = use(parseIndex(view, 0, index, sb, blobs, inode))
  return mapped
}

/**
 * The chunks that hold bytes of [offset, offset + length) of a regular file, in file order.
 * @throws RAFS_FIELD, RAFS_TRUNCATED
 */
export function chunksInRange(
  source: ByteSource,
  sb: Superblock,
  blobs: readonly BlobEntry[],
  inode: Inode,
  offset: number,
  length: number,
): FileChunk[] {
  const end = Math.min(Math.ceil((offset + length) / sb.chunkSize), chunkCount(source, sb, inode))
  const first = Math.floor(offset / sb.chunkSize)
  if (length <= 0 || first >= end) return []
  const view = readIndexes(source, inode, first, end - first)
  const chunks: FileChunk[] = []
  for (let index = first; index < end; index++) chunks.push(parseIndex(view, first, index, sb, blobs, inode))
  return chunks
}

function chunkCount(source: ByteSource, sb: Superblock, inode: Inode): number {
  if (inode.type !== 'regular' || inode.size === 0) return 0
  checkFormat(inode)
  const count = Math.ceil(inode.size / sb.chunkSize)
  if (fits(source, indexOffset(inode), count * F.CHUNK_INDEX_SIZE)) return count
  const why = `its ${count} chunk indexes end beyond the file`
  const at = inode.offset + F.EXTENDED_INODE_OFF.size
  throw badField('RAFS_FIELD', `inode ${inode.nid}`, at, 'i_size', inode.size, why)
}

function indexOffset(inode: Inode): number {
  return F.alignUp(tailOffset(inode), F.CHUNK_INDEX_SIZE)
}

function readIndexes(source: ByteSource, inode: Inode, first: number, count: number): StructView {
  const offset = indexOffset(inode) + first * F.CHUNK_INDEX_SIZE
  return readStruct(source, offset, count * F.CHUNK_INDEX_SIZE, 'chunk indexes')
}

/** @param first - number of the index that the view starts with */
function parseIndex(
  view: StructView,
  first: number,
  index: number,
  sb: Superblock,
  blobs: readonly BlobEntry[],
  inode: Inode,
): FileChunk {
  const base = (index - first) * F.CHUNK_INDEX_SIZE
  const device = view.u16(base + F.CHUNK_INDEX_OFF.device)
  const blobIndex = (device & 0xff) - 1
  const blob = blobs[blobIndex]
  if (blob === undefined)
    throw view.bad(
      base + F.CHUNK_INDEX_OFF.device,
      'device_id',
      device,
      `the image has ${blobs.length} blobs`,
    )
  const chunkIndex = ((device >> 8) << 16) | view.u16(base + F.CHUNK_INDEX_OFF.chunkLow)
  if (chunkIndex >= blob.chunkCount && !hasFeature(blob, 'chunkdictGenerated'))
    throw view.bad(
      base + F.CHUNK_INDEX_OFF.chunkLow,
      'chunk index',
      chunkIndex,
      `the blob has ${blob.chunkCount} chunks`,
    )
  const fileOffset = index * sb.chunkSize
  const length = Math.min(sb.chunkSize, inode.size - fileOffset)
  const block = view.u32(base + F.CHUNK_INDEX_OFF.block)
  const uncompressedOffset = block * sb.blockSize
  if (uncompressedOffset + length > blob.uncompressedSize)
    throw view.bad(
      base + F.CHUNK_INDEX_OFF.block,
      'blkaddr',
      block,
      `the blob has ${blob.uncompressedSize} bytes`,
    )
  return { blobIndex, chunkIndex, uncompressedOffset, length, fileOffset }
}

function checkFormat(inode: Inode): void {
  const known = F.CHUNK_FORMAT_INDEXES | F.CHUNK_FORMAT_BITS_MASK
  if ((inode.u & F.CHUNK_FORMAT_INDEXES) !== 0 && (inode.u & ~known) === 0) return
  const why = 'chunk indexes (0x20) and a chunk size in bits 0 to 4 are expected'
  throw badField(
    'RAFS_FIELD',
    `inode ${inode.nid}`,
    inode.offset + F.EXTENDED_INODE_OFF.u,
    'i_u',
    inode.u,
    why,
  )
}
