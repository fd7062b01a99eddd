/**
 * Where chunks of RAFS v5 blobs are in cache files.
 *
 * Uncompressed, they lie packed in their blob, so that two of them share blocks; a cache file wants whole blocks for each.
 * Both an offset and an index stand in every record, and both ascend together: with one block more for each chunk before
 * it, a chunk begins at a block of its own after the end of the one before, and no table is needed to say where.
 */
import { BLOCK_SIZE, alignUp } from '../format.js'
import type { ImageBlob } from '../image-tree.js'

/** @param uncompressedOffset - of the chunk in its blob, packed. @param index - of the chunk in its blob */
export function chunkAddress(uncompressedOffset: number, index: number): number {
  return Math.floor(uncompressedOffset / BLOCK_SIZE) * BLOCK_SIZE + index * BLOCK_SIZE
}

/** Bytes of the cache file of a blob; all but some blocks of padding are those of its chunks. */
export function addressSpaceBytes({
  uncompressedSize,
  chunkCount,
}: Pick<ImageBlob, 'uncompressedSize' | 'chunkCount'>): number {
  return alignUp(uncompressedSize, BLOCK_SIZE) + chunkCount * BLOCK_SIZE
}
