/**
 * Chunk indexes of a regular file: which chunk of which blob holds each piece of it (EROFS on-disk format, chunk-based
 * files, as RAFS v6 uses them).
 */
import type { ByteSource } from '../common/byte-source.js'
import type { BlobEntry } from './blob-table.js'
import { hasFeature } from './blob-table.js'
import * as F from './format.js'
import { tailOffset, type Inode } from './inode.js'
import { badField, fits, readStruct } from './struct-view.js'
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
  if (inode.type !== 'regular' || inode.size === 0) return
  checkFormat(inode)
  const start = F.alignUp(tailOffset(inode), F.CHUNK_INDEX_SIZE)
  const count = Math.ceil(inode.size / sb.chunkSize)
  const what = `chunk indexes of inode ${inode.nid}`
  if (!fits(source, start, count * F.CHUNK_INDEX_SIZE)) {
    const why = `its ${count} chunk indexes end beyond the file`
    throw badField(
      'RAFS_FIELD',
      `inode ${inode.nid}`,
      inode.offset + F.EXTENDED_INODE_OFF.size,
      'i_size',
      inode.size,
      why,
    )
  }
  for (let index = 0; index < count; index++) {
    const view = readStruct(source, start + index * F.CHUNK_INDEX_SIZE, F.CHUNK_INDEX_SIZE, what)
    const device = view.u16(F.CHUNK_INDEX_OFF.device)
    const blobIndex = (device & 0xff) - 1
    const blob = blobs[blobIndex]
    if (blob === undefined)
      throw view.bad(F.CHUNK_INDEX_OFF.device, 'device_id', device, `the image has ${blobs.length} blobs`)
    const chunkIndex = ((device >> 8) << 16) | view.u16(F.CHUNK_INDEX_OFF.chunkLow)
    const known = chunkIndex < blob.chunkCount || hasFeature(blob, 'chunkdictGenerated')
    view.check(
      known,
      F.CHUNK_INDEX_OFF.chunkLow,
      'chunk index',
      chunkIndex,
      `the blob has ${blob.chunkCount} chunks`,
    )
    const fileOffset = index * sb.chunkSize
    const length = Math.min(sb.chunkSize, inode.size - fileOffset)
    const block = view.u32(F.CHUNK_INDEX_OFF.block)
    const uncompressedOffset = block * sb.blockSize
    const inside = uncompressedOffset + length <= blob.uncompressedSize
    view.check(
      inside,
      F.CHUNK_INDEX_OFF.block,
      'blkaddr',
      block,
      `the blob has ${blob.uncompressedSize} bytes`,
    )
    yield { blobIndex, chunkIndex, uncompressedOffset, length, fileOffset }
  }
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
