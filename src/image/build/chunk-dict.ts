import type { ByteSource } from '../../common/byte-source.js'
import type { Digester } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import type { ImageBlob, ImageChunk, RafsImage } from '../../erofs/image-tree.js'
import type { LoadOptions } from '../../erofs/blob-pool.js'
import { UNKNOWN_DIGEST } from '../../erofs/load-chunks.js'
import { loadBlobs } from '../../erofs/load-image.js'

/** What images must have in common to refer to each other's chunks. */
export type ImageKind = Pick<RafsImage, 'version' | 'chunkSize' | 'explicitOwners' | 'digester'>

/**
 * Chunks of other images that a new one may refer to instead of storing them again (rafs.md 5.8). Any bootstrap is a
 * dictionary. A chunk's blob comes into the table of the image that uses it, and only then.
 */
export class ChunkDict {
  readonly kind: ImageKind
  readonly blobs: readonly ImageBlob[]
  readonly #chunks = new Map<string, ImageChunk>()

  /** @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED */
  constructor(source: ByteSource, options: LoadOptions = {}) {
    const { version, chunkSize, explicitOwners, digester, blobs, chunks } = loadBlobs(source, options)
    this.kind = { version, chunkSize, explicitOwners, digester }
    this.blobs = blobs
    for (const chunk of chunks) {
      // A chunk without a digest is equal to nothing.
      if (chunk.digest !== UNKNOWN_DIGEST && !this.#chunks.has(chunk.digest))
        this.#chunks.set(chunk.digest, chunk)
    }
  }

  get size(): number {
    return this.#chunks.size
  }

  /** The chunk with these bytes. */
  find(digest: string, uncompressedSize: number): ImageChunk | undefined {
    const chunk = this.#chunks.get(digest)
    return chunk?.uncompressedSize === uncompressedSize ? chunk : undefined
  }
}

/**
 * Refuses a dictionary, parent or further source of another kind.
 * @param digester - the one that must be equal; undefined where it need not be
 * @throws IMAGE_MISMATCH
 */
export function requireSameKind(what: string, kind: ImageKind, wanted: ImageKind, digester?: Digester): void {
  const differs = (field: string, own: unknown, other: unknown) =>
    fault(
      'IMAGE_MISMATCH',
      `${what} has ${field} ${String(own)} where ${String(other)} is wanted: build all with the same options`,
    )
  if (kind.version !== wanted.version) throw differs('RAFS version', kind.version, wanted.version)
  if (kind.chunkSize !== wanted.chunkSize) throw differs('chunk size', kind.chunkSize, wanted.chunkSize)
  if (kind.explicitOwners !== wanted.explicitOwners)
    throw differs('explicit owners', kind.explicitOwners, wanted.explicitOwners)
  if (digester !== undefined && kind.digester !== digester) throw differs('digester', kind.digester, digester)
}
