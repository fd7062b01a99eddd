import { setImmediate as nextTurn } from 'node:timers/promises'
import type { ByteSource } from '../common/byte-source.js'
import type { ImageBlob } from '../erofs/image-tree.js'
import { type BlobTableV5, parseBlobTableV5, requireIndexes } from '../erofs/v5/blob-table.js'
import { visitChunks } from '../erofs/v5/chunk-record.js'
import { InodeTable } from '../erofs/v5/inode-table.js'
import { ChunkRows, type KnownChunks } from '../erofs/v5/known-chunks.js'
import { type SuperblockV5, parseSuperblockV5 } from '../erofs/v5/superblock.js'

/** Everybody else has a turn after so long: an image may have a million files. */
const TURN_MS = 5
const NAMES_A_LOOK = 64

/** The chunk records of a RAFS v5 image, which stand with its files: all are read for the first blob that needs them. */
export class V5Records {
  readonly blobs: readonly ImageBlob[]
  readonly #source: ByteSource
  readonly #sb: SuperblockV5
  readonly #table: BlobTableV5
  #scan: Promise<void> | undefined
  /** Read and not yet taken, by the places of their blobs. */
  #found = new Map<number, KnownChunks>()

  /** @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED */
  constructor(source: ByteSource) {
    this.#source = source
    this.#sb = parseSuperblockV5(source)
    this.#table = parseBlobTableV5(source, this.#sb)
    requireIndexes(this.#table)
    this.blobs = this.#table.blobs
  }

  /**
   * What the image's files say of a blob's chunks; the caller's from here on.
   * @throws RAFS_FIELD, RAFS_UNSUPPORTED, RAFS_TRUNCATED, BLOB_META_INVALID
   */
  async take(blobIndex: number): Promise<KnownChunks> {
    for (;;) {
      const found = this.#found.get(blobIndex)
      this.#found.delete(blobIndex)
      if (found) return found
      await (this.#scan ??= this.#read().finally(() => (this.#scan = undefined)))
    }
  }

  async #read(): Promise<void> {
    const { chunkSize, nameCount } = this.#sb
    const context = { source: this.#source, table: this.#table, chunkSize }
    const inodes = new InodeTable(this.#source, this.#sb)
    const rows = this.blobs.map(() => new ChunkRows())
    let turnEnd = performance.now() + TURN_MS
    for (let index = 1; index <= nameCount; index++) {
      const record = inodes.record(index)
      // Further names of a file repeat its chunks.
      if (record.type === 'regular' && record.ino === index)
        visitChunks(context, record, 0, record.childCount, chunk => rows[chunk.blobIndex]?.add(chunk))
      if (index % NAMES_A_LOOK !== 0 || performance.now() < turnEnd) continue
      await nextTurn()
      turnEnd = performance.now() + TURN_MS
    }
    this.#found = new Map(
      rows.map((of, blobIndex) => [blobIndex, of.finish(this.blobs[blobIndex]?.id ?? '')]),
    )
  }
}
