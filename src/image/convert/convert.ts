import { sha256 } from '../../common/digest.js'
import { fault, isFault } from '../../common/fault.js'
import { limitBufferGarbage } from '../../common/garbage.js'
import type { BlobPool } from '../../erofs/blob-pool.js'
import { encodeImage } from '../../erofs/encode-image.js'
import {
  type BlobTarget,
  type ImageSource,
  type ImageTarget,
  ensureBlob,
  putBlobOnce,
} from '../../oci/image-store.js'
import type { Descriptor } from '../../oci/manifest.js'
import { formatReference } from '../../oci/reference.js'
import type { LayerOptions } from '../build/build-layer.js'
import { mergeLayers } from '../build/merge.js'
import { findPrefetched } from '../build/prefetch.js'
import { BOOTSTRAP_FILE, metaFileName, packBootstrapLayer } from './bootstrap-layer.js'
import type { BuildCache } from './build-cache.js'
import { LayerConverter, type LayerOrigin } from './layer-converter.js'
import type { Dictionary } from './dictionary.js'
import { type MergeableLayer, imageOf, optionsDigest } from './layer-record.js'
import {
  type IndexEntry,
  encodeIndex,
  encodeNydusConfig,
  encodeNydusManifest,
  indexMediaType,
  platformOf,
  targetMediaTypes,
} from './nydus-documents.js'
import { type Platforms, type SourceImage, fetchSourceImages } from './source-image.js'
import { WorkDirectory } from './work-directory.js'

export interface ConvertRequest {
  readonly source: ImageSource
  readonly target: ImageTarget
  /** A storage backend for the data blobs: then they are no layers of the image. Not with a cache. */
  readonly backend?: BlobTarget
  /** Of an index. */
  readonly platforms: Platforms
  /** The target becomes an index that holds the plain images beside the nydus ones. */
  readonly mergePlatform: boolean
  /** The nydus manifest names the plain one as its subject, so that registries list it as a referrer. */
  readonly withReferrer: boolean
  readonly layer: LayerOptions
  readonly cache?: BuildCache
  /** Its chunks are those of `layer.knownChunks`. */
  readonly dictionary?: Dictionary
  /** Of the dictionary and the cache: what several layers refer to is one blob. */
  readonly pool: BlobPool
  /** OCI media types even where the source has docker's. */
  readonly oci: boolean
  /** Paths for the image's prefetch table; `/` is everything. */
  readonly prefetch: readonly string[]
  /** A directory of the run's own is made in it, and removed again. */
  readonly workDirectory: string
  /** Name and version of the converter, for the manifest. */
  readonly builder: string
  readonly signal: AbortSignal
  readonly observer: ConvertObserver
}

/** Hears how a conversion goes on. Layers count from 0. */
export interface ConvertObserver {
  /** The next image begins. */
  resolved(image: SourceImage): void
  /** `doneBytes` of the layer's `sizeBytes` have been read. */
  layerRead(index: number, doneBytes: number, sizeBytes: number): void
  layerDone(index: number, layer: MergeableLayer, origin: LayerOrigin): void
  /** It failed, but the next run of the same conversion finds here what is done. */
  kept(directory: string): void
}

export interface ConvertResult {
  readonly source: ImageSource
  readonly target: ImageTarget
  /** Of the new manifest or index. */
  readonly digest: string
  /** Stored bytes of all layers and configs. */
  readonly sourceSizeBytes: number
  readonly targetSizeBytes: number
  readonly elapsedMs: number
  /** Bytes that went up: less than the image where the target held some of it. */
  readonly uploadedBytes: number
}

/** More layers than any runtime stacks. */
const MAX_LAYERS = 500

/**
 * Converts plain images to RAFS images. Nothing names a new image before everything it needs is there: the manifest comes
 * last. What an interrupted run of the same conversion left in the work directory is not done again.
 * @throws faults of the stores, TAR_*, IMAGE_TOO_LARGE, MANIFEST_*, CANCELLED
 */
export async function convertImage(request: ConvertRequest): Promise<ConvertResult> {
  const startedMs = performance.now()
  const { source, target, layer, signal, observer } = request
  const images = await fetchSourceImages(source, request.platforms, signal)
  for (const { manifest } of images) checkLayerCount(manifest.layers.length)
  const options = optionsDigest(layer, request.dictionary)
  const { backend, builder } = request
  const subject = { source: source.name, target: target.name, backend: backend?.name, options, builder }
  const directory = await WorkDirectory.open(request.workDirectory, subject)
  const converter = new LayerConverter({
    target: backend ?? target,
    layer,
    directory,
    cache: request.cache,
    pool: request.pool,
    signal,
  })
  let failure: unknown
  try {
    const done = await new Conversion(request, converter).run(images)
    return {
      source,
      target,
      ...done,
      uploadedBytes: done.uploadedBytes + converter.uploadedBytes,
      elapsedMs: performance.now() - startedMs,
    }
  } catch (err) {
    // Whatever failed because of the stop, the reason is the stop.
    failure = signal.aborted ? signal.reason : err
    throw failure
  } finally {
    await converter.close(failure)
    if (isFault(failure) && (failure.kind === 'unavailable' || failure.kind === 'unauthorized'))
      observer.kept(await directory.keep())
    else await directory.close()
  }
}

class Conversion {
  readonly #request: ConvertRequest
  readonly #converter: LayerConverter
  readonly #signal: AbortSignal
  #uploadedBytes = 0

  constructor(request: ConvertRequest, converter: LayerConverter) {
    this.#request = request
    this.#converter = converter
    this.#signal = converter.signal
  }

  async run(
    images: readonly SourceImage[],
  ): Promise<Pick<ConvertResult, 'digest' | 'sourceSizeBytes' | 'targetSizeBytes' | 'uploadedBytes'>> {
    const { mergePlatform, oci, cache, target } = this.#request
    const isIndex = mergePlatform || images.length > 1
    const converted: { readonly entry: IndexEntry; readonly sizeBytes: number }[] = []
    for (const image of images) converted.push(await this.#convert(image, !isIndex))
    let digest = converted[0]?.entry.digest ?? ''
    if (isIndex) {
      const plain = mergePlatform ? await this.#copyPlain(images) : []
      const entries = [...plain, ...converted.map(({ entry }) => entry)]
      const mediaType = indexMediaType(entries, oci)
      const bytes = encodeIndex(mediaType, entries)
      digest = (await target.putManifest(mediaType, bytes, { signal: this.#signal, named: true })).digest
    }
    await cache?.publish({ signal: this.#signal })
    await target.commit()
    return {
      digest,
      sourceSizeBytes: totalSize(images.flatMap(({ manifest }) => [...manifest.layers, manifest.config])),
      targetSizeBytes: converted.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      uploadedBytes: this.#uploadedBytes,
    }
  }

  async #convert(image: SourceImage, named: boolean): Promise<{ entry: IndexEntry; sizeBytes: number }> {
    const { observer, cache } = this.#request
    observer.resolved(image)
    const layers: MergeableLayer[] = []
    for (const [index, descriptor] of image.manifest.layers.entries()) {
      const onRead = (bytes: number): void => {
        observer.layerRead(index, bytes, descriptor.size)
      }
      const { layer, origin } = await this.#converter.convert(image.source, descriptor, index, onRead)
      await cache?.add(image, index, layer)
      layers.push(layer)
      observer.layerDone(index, layer, origin)
    }
    await this.#converter.settle()
    return this.#publish(image, layers, named)
  }

  async #publish(
    image: SourceImage,
    built: readonly MergeableLayer[],
    named: boolean,
  ): Promise<{ entry: IndexEntry; sizeBytes: number }> {
    const { target, backend, layer, oci, builder, withReferrer, mergePlatform, dictionary } = this.#request
    limitBufferGarbage()
    const root = mergeLayers(built.map(one => one.root))
    const encoded = encodeImage(imageOf(root, layer, findPrefetched(root, this.#request.prefetch)))
    const files = new Map([[BOOTSTRAP_FILE, encoded.bytes]])
    for (const { cacheMeta, digestHex } of built) if (cacheMeta) files.set(metaFileName(digestHex), cacheMeta)
    const layers = built.map(one => ({ digest: `sha256:${one.digestHex}`, sizeBytes: one.sizeBytes }))
    for (const { id } of encoded.blobs) {
      if (!dictionary || built.some(one => one.digestHex === id)) continue
      // What the bootstrap refers to must be a layer of the image, or a registry may collect it.
      const { digest, size } = await dictionary.ensure(backend ?? target, id, { signal: this.#signal })
      layers.push({ digest, sizeBytes: size })
      const meta = dictionary.cacheMeta(id)
      if (meta) files.set(metaFileName(id), meta)
    }
    const bootstrap = await packBootstrapLayer(files)
    const dataLayers = backend ? [] : layers
    const config = encodeNydusConfig(image.config.document, dataLayers, bootstrap.diffId)
    const mediaTypes = targetMediaTypes(image.manifest, oci)
    const manifest = encodeNydusManifest({
      mediaTypes,
      config: { digest: sha256(config), sizeBytes: config.length },
      layers: dataLayers,
      bootstrap: { digest: bootstrap.digest, sizeBytes: bootstrap.bytes.length },
      fsVersion: `${layer.version}`,
      source: image.descriptor,
      sourceReference: image.source.reference ? formatReference(image.source.reference) : image.source.name,
      builder,
      withReferrer,
    })
    await this.#put(bootstrap.bytes, bootstrap.digest)
    await this.#put(config)
    const options = { signal: this.#signal, named }
    const { digest, size } = await target.putManifest(mediaTypes.manifest, manifest, options)
    return {
      entry: {
        mediaType: mediaTypes.manifest,
        digest,
        size,
        platform: platformOf(image.descriptor, image.config),
        kind: mergePlatform ? 'nydusTwin' : 'image',
      },
      sizeBytes: layers.reduce(
        (sum, { sizeBytes }) => sum + sizeBytes,
        bootstrap.bytes.length + config.length,
      ),
    }
  }

  async #put(bytes: Buffer, digest = sha256(bytes)): Promise<void> {
    const { target } = this.#request
    const blob = { digest, size: bytes.length }
    this.#uploadedBytes += await putBlobOnce(target, blob, () => [bytes], { signal: this.#signal })
  }

  /** Brings the plain images to the target and says how the index lists them. */
  async #copyPlain(images: readonly SourceImage[]): Promise<IndexEntry[]> {
    const { target } = this.#request
    const options = { signal: this.#signal }
    const entries: IndexEntry[] = []
    for (const { source, manifest, descriptor, bytes, config } of images) {
      for (const blob of [...manifest.layers, manifest.config])
        this.#uploadedBytes += await ensureBlob(target, blob, source, options)
      const { mediaType } = descriptor
      const { digest, size } = await target.putManifest(mediaType, bytes, { ...options, named: false })
      entries.push({ mediaType, digest, size, platform: platformOf(descriptor, config), kind: 'image' })
    }
    return entries
  }
}

function checkLayerCount(count: number): void {
  if (count <= MAX_LAYERS) return
  throw fault('IMAGE_TOO_LARGE', `the image has ${count} layers: squash it to ${MAX_LAYERS} or less`)
}

function totalSize(descriptors: readonly Descriptor[]): number {
  return descriptors.reduce((sum, { size }) => sum + size, 0)
}
