/** The chunks of RAFS v5 files as objects of the tree that every tool shares (RAFS v5, chunk). */
import { BlobPool } from '../blob-pool.js'
import { CHUNK_OFF, CHUNK_RECORD_SIZE, DIGEST_SIZE } from '../format.js'
import type { ImageBlob, ImageChunk } from '../image-tree.js'
import { LoadedChunk } from '../load-chunks.js'
import { type ChunkContext, type ChunkRecord, visitChunks } from './chunk-record.js'
import type { InodeRecord } from './inode.js'

/** Digests of chunks that are kept in one array. */
const DIGESTS_AT_ONCE = 1024

/** Reads the chunks of files; those that several files or records share become one object. */
export class ChunkRecords {
  readonly #context: ChunkContext
  /** By blob, then by chunk index. */
  readonly #byIndex: readonly (ImageChunk | undefined)[][]
  /** By blob, then by stored offset, in images whose chunks have no index. */
  readonly #byOffset: readonly Map<number, ImageChunk>[]
  #digests = new Uint8Array(0)
  #digestsEnd = 0

  constructor(context: ChunkContext, pool = new BlobPool()) {
    const { source, table } = context
    this.#context = context
    // Whatever count a blob claims, the file has no room for more records than this.
    const room = Math.floor(source.sizeBytes / CHUNK_RECORD_SIZE)
    this.#byIndex = table.blobs.map(blob => pool.chunksOf(blob, Math.min(blob.chunkCount, room)))
    this.#byOffset = table.blobs.map(() => new Map<number, ImageChunk>())
  }

  /**
   * The chunks of a regular file, in order. Their digests are put into `digests`, if given.
   * @throws RAFS_FIELD, RAFS_UNSUPPORTED, RAFS_TRUNCATED
   */
  read(file: InodeRecord, digests?: Uint8Array): ImageChunk[] {
    const chunks: ImageChunk[] = []
    visitChunks(this.#context, file, 0, file.childCount, record => {
      digests?.set(record.digest, chunks.length * DIGEST_SIZE)
      chunks.push(this.#context.table.extended ? this.#indexed(record) : this.#stored(record))
    })
    // With the length it needs: an array that grew has room for seventeen.
    return chunks.slice()
  }

  #indexed(record: ChunkRecord): ImageChunk {
    const { index, blobIndex } = record
    const chunk = this.#load(record, index)
    const chunks = this.#byIndex[blobIndex] ?? []
    const known = chunks[index]
    if (known !== undefined) return sameChunk(record, chunk, known)
    this.#digestsEnd += DIGEST_SIZE
    return (chunks[index] = chunk)
  }

  /** Chunks without an index get one in the order in which files refer to them. */
  #stored(record: ChunkRecord): ImageChunk {
    const { blobIndex, compressedOffset, blob } = record
    const chunks = this.#byOffset[blobIndex] ?? new Map<number, ImageChunk>()
    const chunk = this.#load(record, chunks.size)
    const known = chunks.get(compressedOffset)
    if (known !== undefined) return sameChunk(record, chunk, known)
    this.#digestsEnd += DIGEST_SIZE
    chunks.set(compressedOffset, chunk)
    extendBlob(blob, chunk)
    return chunk
  }

  /** Its digest stands at `#digestsEnd`, until that moves on. */
  #load(record: ChunkRecord, index: number): ImageChunk {
    if (this.#digestsEnd === this.#digests.length) {
      this.#digests = new Uint8Array(DIGESTS_AT_ONCE * DIGEST_SIZE)
      this.#digestsEnd = 0
    }
    this.#digests.set(record.digest, this.#digestsEnd)
    const { blob, uncompressedOffset, uncompressedSize, compressedOffset, compressedSize, crc32 } = record
    const chunk = new LoadedChunk(
      blob,
      index,
      uncompressedOffset,
      uncompressedSize,
      this.#digests,
      this.#digestsEnd,
    )
    chunk.compressedOffset = compressedOffset
    chunk.compressedSize = compressedSize
    if (crc32 !== undefined) chunk.crc32 = crc32
    return chunk
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
function sameChunk(record: ChunkRecord, chunk: ImageChunk, first: ImageChunk): ImageChunk {
  for (const [field, offset] of SAME_FIELDS) {
    if (chunk[field] === first[field]) continue
    const why = `another record of chunk ${chunk.index} says ${first[field] ?? 0}`
    throw record.bad(offset, field, chunk[field] ?? 0, why)
  }
  return first
}
