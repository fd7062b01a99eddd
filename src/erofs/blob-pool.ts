import type { ImageBlob, ImageChunk, ImageInode } from './image-tree.js'
import { badField } from './struct-view.js'

export interface LoadOptions {
  /** Corrects what the image says of a blob before anything is made of it. */
  readonly identify?: (blob: ImageBlob) => void
  /** Shared by images whose blobs of one id are to be one object. */
  readonly pool?: BlobPool
  /** Filled with the inodes of the tree by the numbers that readers show: nids in v6. */
  readonly numbers?: Map<number, ImageInode>
}

/**
 * Blobs and their chunks, one object for each, however many images refer to them: layers of one image may share blobs
 * with each other or with a chunk dictionary.
 */
export class BlobPool {
  readonly #blobs = new Map<string, ImageBlob>()
  /** By chunk index. */
  readonly #chunks = new Map<ImageBlob, (ImageChunk | undefined)[]>()

  /** The object that stands for the blob: the first of its id. */
  share(blob: ImageBlob): ImageBlob {
    const known = this.#blobs.get(blob.id)
    if (known === undefined) this.#blobs.set(blob.id, blob)
    return known ?? blob
  }

  /** The known chunks of a blob; `count` is how many it has at most. */
  chunksOf(blob: ImageBlob, count: number): (ImageChunk | undefined)[] {
    let chunks = this.#chunks.get(blob)
    if (chunks === undefined) {
      chunks = new Array<undefined>(count)
      this.#chunks.set(blob, chunks)
    }
    return chunks
  }
}

/** The objects that stand for the blobs of an image, in their order. @throws RAFS_FIELD when two have one id */
export function shareBlobs(blobs: readonly ImageBlob[], { identify, pool }: LoadOptions): ImageBlob[] {
  const ids = new Set<string>()
  return blobs.map((blob, index) => {
    identify?.(blob)
    if (ids.has(blob.id))
      throw badField(
        'RAFS_FIELD',
        `blob entry ${index}`,
        0,
        'blob_id',
        blob.id,
        'an earlier entry has it too',
      )
    ids.add(blob.id)
    return pool?.share(blob) ?? blob
  })
}
