import type { ByteSource } from '../../common/byte-source.js'
import { fault } from '../../common/fault.js'
import { BLOB_FEATURES } from '../../erofs/format.js'
import { BlobPool } from '../../erofs/blob-pool.js'
import type { ImageChunk, RafsImage, RegularInode } from '../../erofs/image-tree.js'
import { UNKNOWN_DIGEST } from '../../erofs/load-chunks.js'
import { type LoadedBlobs, loadBlobs } from '../../erofs/load-image.js'
import { requireSameKind } from './chunk-dict.js'
import { newDirectory } from './layer-tree.js'

/** The one file of a generated dictionary. */
const FILE_NAME = 'chunkdict'

/**
 * Collects the chunks of many images into a dictionary: a bootstrap whose one file refers to all of them (rafs.md 5.8).
 * Of chunks with one digest the first is kept. It is for building with, not for mounting: the chunks of that file have
 * sizes that those of no other file have.
 */
export class DictGenerator {
  readonly #pool = new BlobPool()
  readonly #chunks = new Map<string, ImageChunk>()
  #first: LoadedBlobs | undefined

  get size(): number {
    return this.#chunks.size
  }

  /** @throws RAFS_*, IMAGE_MISMATCH */
  add(path: string, source: ByteSource): void {
    const image = loadBlobs(source, { pool: this.#pool })
    if (image.version === 5)
      throw fault(
        'RAFS_UNSUPPORTED',
        `${path} is of RAFS v5, and dictionaries are generated for v6: name it as --chunk-dict itself`,
      )
    this.#first ??= image
    requireSameKind(path, image, this.#first, this.#first.digester)
    for (const chunk of image.chunks) {
      const { digest } = chunk
      if (!this.#chunks.has(digest) && digest !== UNKNOWN_DIGEST) this.#chunks.set(digest, chunk)
    }
  }

  /** The dictionary's own image. @throws USAGE when nothing was added */
  finish(): Omit<RafsImage, 'blobs'> {
    if (this.#first === undefined) throw fault('USAGE', 'a dictionary needs images: name their bootstraps')
    const { version, chunkSize, compressor, digester, explicitOwners } = this.#first
    const chunks = [...this.#chunks.values()].sort(compareChunks)
    for (const { blob } of chunks) blob.features |= BLOB_FEATURES.chunkdictGenerated
    const file: RegularInode = {
      type: 'regular',
      mode: 0o660,
      uid: 0,
      gid: 0,
      mtimeSec: 0,
      mtimeNsec: 0,
      sizeBytes: chunks.reduce((sum, { uncompressedSize }) => sum + uncompressedSize, 0),
      chunks,
    }
    const root = newDirectory()
    root.children.set(FILE_NAME, file)
    return { version, chunkSize, compressor, digester, explicitOwners, root, prefetch: [] }
  }
}

/** By blob, then in the order in which they are stored. */
function compareChunks(a: ImageChunk, b: ImageChunk): number {
  if (a.blob.id !== b.blob.id) return a.blob.id < b.blob.id ? -1 : 1
  return a.compressedOffset - b.compressedOffset || a.uncompressedOffset - b.uncompressedOffset
}
