import { MemorySource } from '../../common/byte-source.js'
import { sha256 } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import type { BlobPool } from '../../erofs/blob-pool.js'
import type { RafsImage } from '../../erofs/image-tree.js'
import type { BlobId, BlobTarget, ImageSource, StoreOptions } from '../../oci/image-store.js'
import { ensureBlob } from '../../oci/image-store.js'
import { ChunkDict, requireSameKind } from '../build/chunk-dict.js'
import { metaFileName } from './bootstrap-layer.js'

/** Chunks that images may refer to instead of storing them again, and where their blobs are. */
export class Dictionary {
  readonly chunks: ChunkDict
  /** Of the bootstrap: which dictionary it is. */
  readonly digest: string
  readonly #files: ReadonlyMap<string, Buffer>
  readonly #source: ImageSource | undefined
  readonly #blobs: readonly BlobId[]

  /**
   * @param pool - shared with the images that will use it
   * @param image - where the bootstrap is from; undefined for one whose blobs are at the target already
   */
  constructor(
    bootstrap: Buffer,
    pool: BlobPool,
    image?: { source: ImageSource; blobs: readonly BlobId[]; files: ReadonlyMap<string, Buffer> },
  ) {
    this.chunks = new ChunkDict(new MemorySource(bootstrap), { pool })
    this.digest = sha256(bootstrap)
    this.#files = image?.files ?? new Map()
    this.#source = image?.source
    this.#blobs = image?.blobs ?? []
  }

  /** @throws IMAGE_MISMATCH for an image that cannot refer to its chunks */
  requireKind(kind: Pick<RafsImage, 'version' | 'chunkSize' | 'digester'>): void {
    requireSameKind(
      'the chunk dictionary',
      this.chunks.kind,
      { ...kind, explicitOwners: true },
      kind.digester,
    )
  }

  /** What caches keep of a blob's metadata, where the dictionary has it. */
  cacheMeta(blobId: string): Buffer | undefined {
    return this.#files.get(metaFileName(blobId))
  }

  /** Makes the target hold a blob of the dictionary. @throws IMAGE_INVALID when it is nowhere */
  async ensure(target: BlobTarget, blobId: string, options: StoreOptions): Promise<BlobId> {
    const digest = `sha256:${blobId}`
    const known = this.#blobs.find(blob => blob.digest === digest)
    if (known && this.#source) {
      await ensureBlob(target, known, this.#source, options)
      return known
    }
    const size = await target.blobSize(digest, options)
    if (size !== undefined) return { digest, size }
    throw fault(
      'IMAGE_INVALID',
      `${target.name} lacks the blob ${blobId} of the chunk dictionary: name its image as bootstrap:registry:REF`,
    )
  }
}
