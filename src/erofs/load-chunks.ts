import type { ByteSource } from '../common/byte-source.js'
import type { BlobEntry } from './blob-table.js'
import { type FileChunk, readFileChunks } from './chunk-index.js'
import { recordsOf } from './chunk-table.js'
import { BLOCK_SIZE, CHUNK_FLAGS, CHUNK_OFF, DIGEST_SIZE } from './format.js'
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
  readonly #chunks: readonly Map<number, ImageChunk>[]

  private constructor(
    source: ByteSource,
    superblock: Superblock,
    entries: readonly BlobEntry[],
    blobs: readonly ImageBlob[],
  ) {
    this.#source = source
    this.#superblock = superblock
    this.#entries = entries
    this.#blobs = blobs
    this.#chunks = blobs.map(() => new Map())
  }

  /** Reads the chunk table: what it says of each chunk that the image's files use. @throws RAFS_FIELD, RAFS_TRUNCATED */
  static read(
    source: ByteSource,
    superblock: Superblock,
    entries: readonly BlobEntry[],
    blobs: readonly ImageBlob[],
  ): LoadedChunks {
    const loaded = new LoadedChunks(source, superblock, entries, blobs)
    for (const { view, base, blobIndex } of recordsOf(source, superblock.chunkTable, entries)) {
      const blob = blobs[blobIndex]
      const index = view.u32(base + CHUNK_OFF.index)
      const own = loaded.#chunks[blobIndex]
      if (blob === undefined || own === undefined) continue
      const known = own.get(index)
      const chunk = readRecord(view, base, blob, index)
      if (known === undefined) own.set(index, chunk)
      else
        view.check(
          known.digest === chunk.digest,
          base + CHUNK_OFF.index,
          'index',
          index,
          'two records give this chunk different digests',
        )
    }
    return loaded
  }

  /** All of them, in the order of their blobs. */
  *all(): Generator<ImageChunk, void, undefined> {
    for (const chunks of this.#chunks) yield* chunks.values()
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
    let chunk = own?.get(chunkIndex)
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
      own.set(chunkIndex, chunk)
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
