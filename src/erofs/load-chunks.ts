import type { ByteSource } from '../common/byte-source.js'
import type { BlobPool } from './blob-pool.js'
import type { BlobEntry } from './blob-table.js'
import { type FileChunk, readFileChunks } from './chunk-index.js'
import { recordsOf } from './chunk-table.js'
import { BLOCK_SIZE, CHUNK_FLAGS, CHUNK_INDEX_SIZE, CHUNK_OFF, DIGEST_SIZE } from './format.js'
import type { ImageBlob, ImageChunk } from './image-tree.js'
import type { Inode } from './inode.js'
import { badField, type StructView } from './struct-view.js'
import type { Superblock } from './superblock.js'

/** The digest of a chunk that the chunk table does not know. */
export const UNKNOWN_DIGEST = '0'.repeat(2 * DIGEST_SIZE)

/** The chunks of an image, one object for each chunk of a blob, whoever uses it. */
export class LoadedChunks {
  readonly #source: ByteSource
  readonly #superblock: Superblock
  readonly #entries: readonly BlobEntry[]
  readonly #blobs: readonly ImageBlob[]
  /** By blob, then by chunk index. */
  readonly #chunks: readonly (ImageChunk | undefined)[][]

  /** Reads the chunk table: what it says of each chunk that the image's files use. @throws RAFS_FIELD, RAFS_TRUNCATED */
  constructor(
    source: ByteSource,
    superblock: Superblock,
    entries: readonly BlobEntry[],
    blobs: readonly ImageBlob[],
    pool: BlobPool,
  ) {
    this.#source = source
    this.#superblock = superblock
    this.#entries = entries
    this.#blobs = blobs
    // Whatever count an entry claims, the file has no room to name more chunks than this.
    const room = Math.floor(source.sizeBytes / CHUNK_INDEX_SIZE)
    this.#chunks = blobs.map(blob => pool.chunksOf(blob, Math.min(blob.chunkCount, room)))
    for (const { view, base, blobIndex } of recordsOf(source, superblock.chunkTable, entries)) {
      const blob = blobs[blobIndex]
      const own = this.#chunks[blobIndex]
      if (blob !== undefined && own !== undefined) addRecord(own, view, base, blob)
    }
  }

  /** All of them, in the order of their blobs. */
  *all(): Generator<ImageChunk, void, undefined> {
    for (const chunks of this.#chunks) for (const chunk of chunks) if (chunk !== undefined) yield chunk
  }

  /** The chunks of a regular file in file order. @throws RAFS_FIELD, RAFS_TRUNCATED */
  ofFile(inode: Inode): ImageChunk[] {
    const chunks: ImageChunk[] = []
    for (const piece of readFileChunks(this.#source, this.#superblock, this.#entries, inode))
      chunks.push(this.#chunk(inode, piece))
    return chunks
  }

  #chunk(inode: Inode, { blobIndex, chunkIndex, uncompressedOffset, length }: FileChunk): ImageChunk {
    const blob = this.#blobs[blobIndex]
    const own = this.#chunks[blobIndex]
    let chunk = own?.[chunkIndex]
    if (chunk === undefined && own !== undefined && blob !== undefined) {
      chunk = {
        blob,
        index: chunkIndex,
        digest: UNKNOWN_DIGEST,
        uncompressedOffset,
        uncompressedSize: length,
        compressedOffset: 0,
        compressedSize: 0,
      }
      own[chunkIndex] = chunk
    }
    if (chunk?.uncompressedOffset !== uncompressedOffset || chunk.uncompressedSize !== length)
      throw badField(
        'RAFS_FIELD',
        `inode ${inode.nid}`,
        inode.offset,
        'chunk index',
        chunkIndex,
        `the file wants ${length} bytes at ${uncompressedOffset} of blob ${blobIndex}, ` +
          `the chunk has ${chunk?.uncompressedSize} at ${chunk?.uncompressedOffset}`,
      )
    return chunk
  }
}

function addRecord(
  chunks: (ImageChunk | undefined)[],
  view: StructView,
  base: number,
  blob: ImageBlob,
): void {
  const index = view.u32(base + CHUNK_OFF.index)
  const chunk = readRecord(view, base, blob, index)
  const known = chunks[index]
  if (known === undefined) chunks[index] = chunk
  else
    view.check(
      known.digest === chunk.digest && known.uncompressedOffset === chunk.uncompressedOffset,
      base + CHUNK_OFF.index,
      'index',
      index,
      'two records tell this chunk differently',
    )
}

function readRecord(view: StructView, base: number, blob: ImageBlob, index: number): ImageChunk {
  const digest = view.bytes.subarray(base + CHUNK_OFF.digest, base + CHUNK_OFF.digest + DIGEST_SIZE)
  const uncompressedSize = view.u32(base + CHUNK_OFF.uncompressedSize)
  view.check(
    uncompressedSize > 0 && uncompressedSize <= blob.chunkSize,
    base + CHUNK_OFF.uncompressedSize,
    'uncompressed_size',
    uncompressedSize,
    `1 to ${blob.chunkSize} bytes are expected`,
  )
  const uncompressedOffset = view.u64(base + CHUNK_OFF.uncompressedOffset, 'uncompressed_offset')
  view.check(
    uncompressedOffset % BLOCK_SIZE === 0 && uncompressedOffset + uncompressedSize <= blob.uncompressedSize,
    base + CHUNK_OFF.uncompressedOffset,
    'uncompressed_offset',
    uncompressedOffset,
    `a multiple of ${BLOCK_SIZE} in the ${blob.uncompressedSize} bytes of the blob is expected`,
  )
  const hasCrc = (view.u32(base + CHUNK_OFF.flags) & CHUNK_FLAGS.hasCrc32) !== 0
  return {
    blob,
    index,
    digest: Buffer.from(digest.buffer, digest.byteOffset, DIGEST_SIZE).toString('hex'),
    uncompressedOffset,
    uncompressedSize,
    compressedOffset: view.u64(base + CHUNK_OFF.compressedOffset, 'compressed_offset'),
    compressedSize: view.u32(base + CHUNK_OFF.compressedSize),
    ...(hasCrc && { crc32: view.u32(base + CHUNK_OFF.crc32) }),
  }
}
