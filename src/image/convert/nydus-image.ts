import type { BlobReader, ReadOptions } from '../../backend/reader.js'
import { MemorySource } from '../../common/byte-source.js'
import { fault } from '../../common/fault.js'
import type { RafsImage } from '../../erofs/image-tree.js'
import { loadImage } from '../../erofs/load-image.js'
import { ANNOTATION } from '../../oci/annotations.js'
import { type BlobId, type ImageSource, readBlob } from '../../oci/image-store.js'
import { type ImageConfig, type Manifest, isNydusManifest } from '../../oci/manifest.js'
import { type WantedPlatform, selectManifest } from '../../oci/platform.js'
import type { BlobPlace } from '../read/chunk-reader.js'
import { bootstrapOf, unpackBootstrapLayer } from './bootstrap-layer.js'
import { fetchImageConfig, requireManifest } from './source-image.js'

/** A nydus image of a store, its metadata in memory. */
export interface NydusImage {
  readonly source: ImageSource
  readonly manifest: Manifest
  readonly config: ImageConfig
  /** Files of the bootstrap layer by path. */
  readonly files: ReadonlyMap<string, Buffer>
  readonly bootstrap: Buffer
  readonly image: RafsImage
}

/** A bootstrap of 500,000 files takes a tenth of this. */
const MAX_BOOTSTRAP_LAYER_BYTES = 1 << 30

/**
 * The nydus image that a store's reference names: of an index, the one for the platform.
 * @throws REGISTRY_NOT_FOUND for a platform that is not there, and what `fetchNydusImage` throws
 */
export async function resolveNydusImage(
  source: ImageSource,
  platform: WantedPlatform,
  signal: AbortSignal,
): Promise<NydusImage> {
  const root = await source.resolve({ signal })
  const named =
    root.content.kind === 'manifest'
      ? root
      : await source.fetchManifest(selectManifest(root.content, 'nydus', platform), { signal })
  return fetchNydusImage(source, requireManifest(named, source.name), signal)
}

/** @throws MANIFEST_UNSUPPORTED for a plain image, IMAGE_INVALID, TAR_INVALID, RAFS_*, faults of the store */
export async function fetchNydusImage(
  source: ImageSource,
  manifest: Manifest,
  signal: AbortSignal,
): Promise<NydusImage> {
  const layer = manifest.layers.at(-1)
  if (!layer || !isNydusManifest(manifest)) {
    throw fault(
      'MANIFEST_UNSUPPORTED',
      `${source.name} is no nydus image: its last layer is no bootstrap; nydusify convert makes one of it`,
    )
  }
  const config = await fetchImageConfig(source, manifest, signal)
  const files = await unpackBootstrapLayer(
    await readBlob(source, layer, MAX_BOOTSTRAP_LAYER_BYTES, { signal }),
  )
  const bootstrap = bootstrapOf(files)
  return { source, manifest, config, files, bootstrap, image: loadImage(new MemorySource(bootstrap)) }
}

/** The data blobs of an image, read in place from its store. */
export function blobsOf({ source, manifest }: Pick<NydusImage, 'source' | 'manifest'>): BlobPlace {
  return {
    open: blobId => {
      const blob = manifest.layers.find(({ digest }) => digest === `sha256:${blobId}`)
      if (blob) return new StoreBlob(source, blobId, blob)
      if (manifest.layers.some(({ annotations }) => annotations[ANNOTATION.nydusRef] === `sha256:${blobId}`))
        throw fault(
          'UNIMPLEMENTED',
          `${source.name} refers to the layers of a plain image (zran), which this release does not read: ` +
            'convert the image without --oci-ref',
        )
      throw fault(
        'IMAGE_INVALID',
        `${source.name}: the bootstrap refers to the blob ${blobId}, which is no layer of the image: convert it anew`,
      )
    },
  }
}

class StoreBlob implements BlobReader {
  readonly blobId: string
  readonly #source: ImageSource
  readonly #blob: BlobId

  constructor(source: ImageSource, blobId: string, blob: BlobId) {
    this.#source = source
    this.blobId = blobId
    this.#blob = blob
  }

  size(): Promise<number> {
    return Promise.resolve(this.#blob.size)
  }

  read(offset: number, length: number, { signal }: ReadOptions): Promise<Uint8Array> {
    return this.#source.readBlobRange(this.#blob, offset, length, { signal })
  }
}
