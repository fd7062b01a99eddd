import type { ByteSource } from '../common/byte-source.js'
import type { BlobPool } from './blob-pool.js'
import { type BlobEntry, hasFeature } from './blob-table.js'
import { type FileChunk, mapFileChunks } from './chunk-index.js'
import { recordsOf } from './chunk-table.js'
import {
  BLOCK_SIZE,
  CHUNK_FLAGS,
  CHUNK_INDEX_SIZE,
  CHUNK_OFF,
  CHUNK_RECORD_SIZE,
  DIGEST_SIZE,
} from './format.js'
import type { ChunkPlace, ImageBlob, ImageChunk } from './image-tree.js'
import type { Inode } from './inode.js'
import { badField, type StructView } from './struct-view.js'
import type { Superblock } from './superblock.js'

/** The digest of a chunk that the chunk table does not know. */
export const UNKNOWN_DIGEST = '0'.repeat(2 * DIGEST_SIZE)
const NO_DIGEST = new Uint8Array(DIGEST_SIZE)

/** A chunk of an image with a million of them: its digest stays 32 bytes of the table until somebody asks for it. */
export class LoadedChunk implements ImageChunk {
  readonly blob: ImageBlob
  readonly index: number
  readonly uncompressedOffset: number
  readonly uncompressedSize: number
  compressedOffset = 0
  compressedSize = 0
  // Few chunks have these; those that have not keep no room for them.
  declare batch?: ChunkPlace | undefined
  declare crc32?: number | undefined
  readonly #digests: Uint8Array
  readonly #at: number

  /** @param at - where the digest stands in `digests` */
  constructor(
    blob: ImageBlob,
    index: number,
    uncompressedOffset: number,
    uncompressedSize: number,
    digests: Uint8Array,
    at = 0,
  ) {
    this.blob = blob
    this.index = index
    this.uncompressedOffset = uncompressedOffset
    this.uncompressedSize = uncompressedSize
    this.#digests = digests
    this.#at = at
  }

  get digest(): string {
    const { buffer, byteOffset } = this.#digests
    return Buffer.from(buffer, byteOffset + this.#at, DIGEST_SIZE).toString('hex')
  }
}

/** The chunks of an image, one object for each chunk of a blob, whoever uses it. */
export class LoadedChunks {
  readonly #source: ByteSource
  readonly #superblock: Superblock
  readonly #entries: readonly BlobEntry[]
  readonly #blobs: readonly ImageBlob[]
  /** By blob, then by chunk index. */
  readonly #chunks: readonly (ImageChunk | undefined)[][]
  /** By blob, then by chunk index: 1 for a record that no file has asked for yet. */
  readonly #unused: readonly Uint8Array[]

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
    this.#unused = this.#chunks.map(chunks => new Uint8Array(chunks.length))
    const { chunkTable } = superblock
    const digests = new Uint8Array((chunkTable.size / CHUNK_RECORD_SIZE) * DIGEST_SIZE)
    let at = 0
    for (const { view, base, blobIndex } of recordsOf(source, chunkTable, entries)) {
      const blob = blobs[blobIndex]
      const own = this.#chunks[blobIndex]
      const unused = this.#unused[blobIndex]
      if (blob === undefined || own === undefined || unused === undefined) continue
      for (let i = 0; i < DIGEST_SIZE; i++) digests[at + i] = view.u8(base + CHUNK_OFF.digest + i)
      const chunk = readRecord(view, base, blob, digests, at)
      addRecord(own, view, base, chunk)
      unused[chunk.index] = 1
      at += DIGEST_SIZE
    }
  }

  /** All of them, in the order of their blobs. */
  *all(): Generator<ImageChunk, void, undefined> {
    for (const chunks of this.#chunks) for (const chunk of chunks) if (chunk !== undefined) yield chunk
  }

  /**
   * Builders write a record for each chunk that a file uses, and for no other: one that is left over was a file's.
   * @throws RAFS_FIELD
   */
  requireAllUsed(): void {
    if (!this.#unused.some(marks => marks.includes(1))) return
    const { chunkTable } = this.#superblock
    for (const { view, base, blobIndex } of recordsOf(this.#source, chunkTable, this.#entries)) {
      const entry = this.#entries[blobIndex]
      if (entry === undefined || hasFeature(entry, 'chunkdictGenerated')) continue
      const index = view.u32(base + CHUNK_OFF.index)
      view.check(
        this.#unused[blobIndex]?.[index] !== 1,
        base + CHUNK_OFF.index,
        'index',
        index,
        'no file has it',
      )
    }
  }

  /** The chunks of a regular file in file order. @throws RAFS_FIELD, RAFS_TRUNCATED */
  ofFile(inode: Inode): ImageChunk[] {
    return mapFileChunks(this.#source, this.#superblock, this.#entries, inode, piece =>
      this.#chunk(inode, piece),
    )
  }

  #chunk(inode: Inode, { blobIndex, chunkIndex, uncompressedOffset, length }: FileChunk): ImageChunk {
    const blob = this.#blobs[blobIndex]
    const own = this.#chunks[blobIndex]
    const unused = this.#unused[blobIndex]
    if (unused !== undefined) unused[chunkIndex] = 0
    let chunk = own?.[chunkIndex]
    if (chunk === undefined && own !== undefined && blob !== undefined) {
      chunk = new LoadedChunk(blob, chunkIndex, uncompressedOffset, length, NO_DIGEST)
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
  chunk: LoadedChunk,
): void {
  const { index } = chunk
  const known = chunks[index]
  if (known === undefined) chunks[index] = chunk
  else if (known.digest !== chunk.digest || known.uncompressedOffset !== chunk.uncompressedOffset)
    throw view.bad(base + CHUNK_OFF.index, 'index', index, 'two records tell this chunk differently')
}

function readRecord(
  view: StructView,
  base: number,
  blob: ImageBlob,
  digests: Uint8Array,
  at: number,
): LoadedChunk {
  const size = view.u32(base + CHUNK_OFF.uncompressedSize)
  if (size === 0 || size > blob.chunkSize)
    throw view.bad(
      base + CHUNK_OFF.uncompressedSize,
      'uncompressed_size',
      size,
      `1 to ${blob.chunkSize} bytes are expected`,
    )
  const offset = view.u64(base + CHUNK_OFF.uncompressedOffset, 'uncompressed_offset')
  if (offset % BLOCK_SIZE !== 0 || offset + size > blob.uncompressedSize)
    throw view.bad(
      base + CHUNK_OFF.uncompressedOffset,
      'uncompressed_offset',
      offset,
      `a multiple of ${BLOCK_SIZE} in the ${blob.uncompressedSize} bytes of the blob is expected`,
    )
  const chunk = new LoadedChunk(blob, view.u32(base + CHUNK_OFF.index), offset, size, digests, at)
  chunk.compressedOffset = view.u64(base + CHUNK_OFF.compressedOffset, 'compressed_offset')
  chunk.compressedSize = view.u32(base + CHUNK_OFF.compressedSize)
  if ((view.u32(base + CHUNK_OFF.flags) & CHUNK_FLAGS.hasCrc32) !== 0)
    chunk.crc32 = view.u32(base + CHUNK_OFF.crc32)
  return chunk
}
