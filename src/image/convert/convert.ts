import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, rm, rmdir } from 'node:fs/promises'
import path from 'node:path'
import { asFault, fault } from '../../common/fault.js'
import { encodeBootstrap } from '../../erofs/writer.js'
import type { Descriptor } from '../../oci/manifest.js'
import type { WantedPlatform } from '../../oci/platform.js'
import { type Reference, formatReference } from '../../oci/reference.js'
import type { RegistryClient } from '../../oci/registry-client.js'
import { packBootstrapLayer, sha256 } from './bootstrap-layer.js'
import { type BuiltLayer, type LayerOptions, buildLayer } from '../build/build-layer.js'
import { CompressPool } from '../build/compress-pool.js'
import { mergeLayers } from '../build/merge.js'
import { encodeNydusConfig, encodeNydusManifest, targetMediaTypes } from './nydus-documents.js'
import { findPrefetched } from '../build/prefetch.js'
import { type SourceImage, fetchSourceImage } from './source-image.js'

export interface ConvertRequest {
  readonly source: Reference
  readonly sourceClient: RegistryClient
  /** With a tag. */
  readonly target: Reference
  readonly targetClient: RegistryClient
  readonly platform: WantedPlatform
  readonly layer: LayerOptions
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
  resolved(image: SourceImage): void
  /** `doneBytes` of the layer's `sizeBytes` have been read. */
  layerRead(index: number, doneBytes: number, sizeBytes: number): void
  layerBuilt(index: number, built: BuiltLayer): void
}

export interface ConvertResult {
  readonly source: SourceImage
  /** Of the new manifest. */
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
 * Converts a plain image of a registry to a RAFS v6 image in a registry. Nothing names the new image before everything
 * it needs is there: the manifest comes last.
 * @throws faults of the registries, TAR_*, IMAGE_TOO_LARGE, MANIFEST_*, CANCELLED
 */
export async function convertImage(request: ConvertRequest): Promise<ConvertResult> {
  const startedMs = performance.now()
  const { observer } = request
  const source = await fetchSourceImage(
    request.sourceClient,
    request.source,
    request.platform,
    request.signal,
  )
  const { layers } = source.manifest
  if (layers.length > MAX_LAYERS)
    throw fault(
      'IMAGE_TOO_LARGE',
      `the image has ${layers.length} layers: squash it to ${MAX_LAYERS} or less`,
    )
  observer.resolved(source)
  const done = await inWorkDirectory(request.workDirectory, directory =>
    new Conversion(request, source, directory).run(),
  )
  return {
    source,
    ...done,
    sourceSizeBytes: totalSize([...layers, source.manifest.config]),
    elapsedMs: performance.now() - startedMs,
  }
}

/** One conversion under way. Layers are built one after the other, while the one before is uploaded. */
class Conversion {
  readonly #request: ConvertRequest
  readonly #source: SourceImage
  readonly #directory: string
  readonly #pool = new CompressPool()
  readonly #stop = new AbortController()
  readonly #signal: AbortSignal
  #uploadedBytes = 0

  constructor(request: ConvertRequest, source: SourceImage, directory: string) {
    this.#request = request
    this.#source = source
    this.#directory = directory
    this.#signal = AbortSignal.any([request.signal, this.#stop.signal])
  }

  async run(): Promise<Pick<ConvertResult, 'digest' | 'targetSizeBytes' | 'uploadedBytes'>> {
    try {
      const layers = await this.#buildLayers()
      return await this.#publish(layers)
    } catch (err) {
      // Whatever failed because of the stop, the reason is the stop.
      throw this.#request.signal.aborted ? this.#request.signal.reason : err
    } finally {
      await this.#pool.close()
    }
  }

  async #buildLayers(): Promise<BuiltLayer[]> {
    const built: BuiltLayer[] = []
    /** By source digest and by own digest: an image may hold a layer twice, and two blobs of one id must be one. */
    const known = new Map<string, BuiltLayer>()
    let upload = Promise.resolve()
    try {
      for (const [index, descriptor] of this.#source.manifest.layers.entries()) {
        let layer = known.get(descriptor.digest)
        if (!layer) {
          const fresh = await this.#build(index, descriptor)
          layer = known.get(fresh.digestHex) ?? fresh
          known.set(descriptor.digest, layer).set(layer.digestHex, layer)
          await upload
          upload = this.#uploadLayer(fresh)
          // It is awaited before the next one; until then a failure is nobody's.
          upload.catch(() => undefined)
        }
        built.push(layer)
        this.#request.observer.layerBuilt(index, layer)
      }
      await upload
    } catch (err) {
      this.#stop.abort(err)
      await upload.catch(() => undefined)
      throw err
    }
    return built
  }

  async #build(index: number, { digest, size }: Descriptor): Promise<BuiltLayer> {
    const { sourceClient, source, observer, layer } = this.#request
    const stream = sourceClient.streamBlob(source.repository, { digest, size }, { signal: this.#signal })
    async function* observed(): AsyncGenerator<Uint8Array> {
      let doneBytes = 0
      for await (const piece of stream) {
        yield piece
        doneBytes += piece.length
        observer.layerRead(index, doneBytes, size)
      }
    }
    try {
      return await buildLayer(observed(), path.join(this.#directory, `layer-${index}`), layer, this.#pool)
    } catch (err) {
      const failure = asFault(err)
      throw fault(failure.code, `layer ${index + 1} (${digest.slice(0, 19)}…): ${failure.message}`, {
        cause: failure,
        context: { ...failure.context, layer: digest },
        retryable: failure.retryable,
      })
    }
  }

  async #uploadLayer(layer: BuiltLayer): Promise<void> {
    const content = (): AsyncIterable<Uint8Array> => createReadStream(layer.path, { highWaterMark: 1 << 20 })
    await this.#upload(`sha256:${layer.digestHex}`, layer.sizeBytes, content)
    await rm(layer.path)
  }

  /** Sends a blob unless the target holds it. */
  async #upload(
    digest: string,
    size: number,
    content: () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  ): Promise<void> {
    const { targetClient, target } = this.#request
    const options = { signal: this.#signal }
    if (await targetClient.hasBlob(target.repository, digest, options)) return
    await targetClient.uploadBlob(target.repository, content(), { ...options, expected: { digest, size } })
    this.#uploadedBytes += size
  }

  async #publish(
    built: readonly BuiltLayer[],
  ): Promise<Pick<ConvertResult, 'digest' | 'targetSizeBytes' | 'uploadedBytes'>> {
    const { target, targetClient, layer, oci, builder, source } = this.#request
    const root = mergeLayers(built.map(one => one.root))
    const prefetch = findPrefetched(root, this.#request.prefetch)
    const bootstrap = await packBootstrapLayer(
      encodeBootstrap(root, { ...layer, prefetch }).bytes,
      new Map(built.flatMap(one => (one.cacheMeta ? [[one.digestHex, one.cacheMeta]] : []))),
    )
    const layers = built.map(one => ({ digest: `sha256:${one.digestHex}`, sizeBytes: one.sizeBytes }))
    const config = encodeNydusConfig(this.#source.config.document, layers, bootstrap.diffId)
    const mediaTypes = targetMediaTypes(this.#source.manifest, oci)
    const manifest = encodeNydusManifest({
      mediaTypes,
      config: { digest: sha256(config), sizeBytes: config.length },
      layers,
      bootstrap: { digest: bootstrap.digest, sizeBytes: bootstrap.bytes.length },
      sourceDigest: this.#source.digest,
      sourceReference: formatReference(source),
      builder,
    })
    await this.#upload(bootstrap.digest, bootstrap.bytes.length, () => [bootstrap.bytes])
    await this.#upload(sha256(config), config.length, () => [config])
    const tag = target.tag ?? 'latest'
    const stored = await targetClient.putManifest(target.repository, tag, mediaTypes.manifest, manifest, {
      signal: this.#signal,
    })
    const dataBytes = layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
    return {
      digest: stored.digest,
      targetSizeBytes: dataBytes + bootstrap.bytes.length + config.length,
      uploadedBytes: this.#uploadedBytes,
    }
  }
}

/** Runs with a new directory in `parent`, which is removed afterwards, and `parent` too if it was made for this. */
async function inWorkDirectory<T>(parent: string, run: (directory: string) => Promise<T>): Promise<T> {
  const made = await mkdir(parent, { recursive: true })
  const directory = await mkdtemp(path.join(parent, 'nydusify-'))
  try {
    return await run(directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
    // Another run may use it meanwhile.
    if (made !== undefined) await rmdir(parent).catch(() => undefined)
  }
}

function totalSize(descriptors: readonly Descriptor[]): number {
  return descriptors.reduce((sum, { size }) => sum + size, 0)
}
