import type { ByteSource } from '../../common/byte-source.js'
import { isBlobId } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { hasFeature } from '../../erofs/blob-table.js'
import { BLOB_FEATURES } from '../../erofs/format.js'
import type { DirectoryInode, ImageBlob, RafsImage } from '../../erofs/image-tree.js'
import { BlobPool } from '../../erofs/blob-pool.js'
import { loadImage } from '../../erofs/load-image.js'
import { type ChunkDict, type ImageKind, requireSameKind } from './chunk-dict.js'
import { newDirectory } from './layer-tree.js'
import { overlay } from './merge.js'
import { findPrefetched } from './prefetch.js'

/** What is known of a source's own data blob beside its bootstrap; what is not given stays as the bootstrap has it. */
export interface SourceBlob {
  /** sha256 of the data blob; for a blob that refers to a layer of another image, of its metadata blob. */
  readonly digest?: string | undefined
  readonly originalId?: string | undefined
  readonly sizeBytes?: number | undefined
  readonly tocDigest?: string | undefined
  readonly tocSizeBytes?: number | undefined
}

export interface MergeSource {
  /** As the user named it; the id of a blob with its bootstrap inside is taken from the file name (rafs.md 2.7). */
  readonly path: string
  readonly blob?: SourceBlob
}

/**
 * Lays the images of several layers over one another, lowest first (rafs.md 6.3). One source is in memory at a time,
 * beside what is merged already.
 */
export class ImageMerger {
  readonly #pool = new BlobPool()
  readonly #dictionary: ReadonlySet<string>
  readonly #dictionaryKind: ImageKind | undefined
  readonly #root: DirectoryInode = newDirectory()
  #last: RafsImage | undefined

  constructor(dictionary?: ChunkDict) {
    this.#dictionary = new Set(dictionary?.blobs.map(({ id }) => id))
    this.#dictionaryKind = dictionary?.kind
  }

  /** The image that all sources are laid over; its blobs are what it says. @throws RAFS_*, IMAGE_MISMATCH */
  addParent(path: string, source: ByteSource): void {
    this.#add(path, loadImage(source, { pool: this.#pool }))
  }

  /** The next layer. @throws RAFS_*, IMAGE_MISMATCH */
  add(source: MergeSource, bytes: ByteSource): void {
    let own: string | undefined
    const identify = (blob: ImageBlob): void => {
      if (this.#dictionary.has(blob.id)) return
      if (own !== undefined)
        throw fault(
          'IMAGE_MISMATCH',
          `${source.path} refers to the data blobs ${own} and ${blob.id}: the bootstrap of a layer has one; ` +
            'give a merged image as --parent-bootstrap, and the dictionary of its layers as --chunk-dict',
        )
      identifyBlob(blob, source)
      own = blob.id
    }
    this.#add(source.path, loadImage(bytes, { pool: this.#pool, identify }))
  }

  /** The merged image; its tree says which blobs it has. Paths that name nothing are not prefetched. @throws USAGE when nothing was merged */
  finish(prefetch: readonly string[]): Omit<RafsImage, 'blobs'> {
    if (this.#last === undefined)
      throw fault('USAGE', 'there is nothing to merge: name one bootstrap at least')
    const { version, chunkSize, compressor, digester, explicitOwners } = this.#last
    return {
      version,
      chunkSize,
      compressor,
      digester,
      explicitOwners,
      root: this.#root,
      prefetch: findPrefetched(this.#root, prefetch),
    }
  }

  #add(path: string, image: RafsImage): void {
    const wanted = this.#last ?? this.#dictionaryKind
    // Digests of v5 stand in the inodes; v6 has them in the blobs, which say their own digester.
    if (wanted !== undefined)
      requireSameKind(path, image, wanted, image.version === 5 ? wanted.digester : undefined)
    overlay(this.#root, image.root, 'oci')
    this.#last = { ...image, root: newDirectory(), prefetch: [] }
  }
}

/** Makes an entry say what the blob is to a reader of the merged image: one that lies beside it. */
function identifyBlob(blob: ImageBlob, { path, blob: known = {} }: MergeSource): void {
  const { inlinedFsMeta, capTarToc } = BLOB_FEATURES
  const refers = hasFeature(blob, 'separate')
  const unnamed = hasFeature(blob, 'inlinedFsMeta') && !hasFeature(blob, 'external')
  const id = known.digest ?? (unnamed || (blob.features & capTarToc) === 0 ? stemOf(path) : undefined)
  if (refers) {
    if (id !== undefined)
      blob.meta = { digest: Buffer.from(id, 'hex'), sizeBytes: known.sizeBytes ?? blob.meta?.sizeBytes ?? 0 }
  } else {
    if (id !== undefined) blob.id = id
    if (known.sizeBytes !== undefined) blob.compressedSize = known.sizeBytes
  }
  if (known.originalId !== undefined) blob.id = known.originalId
  if (!isBlobId(blob.id))
    throw fault(
      'IMAGE_MISMATCH',
      `${path} does not say which blob it belongs to: name it by the digest of its blob, or give --blob-digests`,
    )
  const sizeBytes = known.tocSizeBytes ?? blob.toc?.sizeBytes ?? 0
  const digest = known.tocDigest === undefined ? blob.toc?.digest : Buffer.from(known.tocDigest, 'hex')
  if (sizeBytes > 0 && digest !== undefined) blob.toc = { sizeBytes, digest }
  blob.features &= ~inlinedFsMeta
}

/** The name of the file up to its first dot, where that is a blob id. */
function stemOf(path: string): string | undefined {
  const [stem = ''] = path.slice(path.lastIndexOf('/') + 1).split('.')
  return isBlobId(stem) ? stem : undefined
}
