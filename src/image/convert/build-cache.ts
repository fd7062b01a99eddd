/**
 * An image that remembers converted layers (nydusd.md 9.8): for each source layer its data blob and its record, newest
 * first. A conversion that meets a layer again takes it over instead of building it.
 */
import { createHash } from 'node:crypto'
import { sha256 } from '../../common/digest.js'
import { isFault } from '../../common/fault.js'
import { ANNOTATION } from '../../oci/annotations.js'
import {
  type BlobTarget,
  type ImageSource,
  type ImageStore,
  type ImageTarget,
  type StoreOptions,
  ensureBlob,
  putBlobOnce,
  readBlob,
} from '../../oci/image-store.js'
import type { Descriptor } from '../../oci/manifest.js'
import { MEDIA_TYPE } from '../../oci/media-types.js'
import type { LayerOptions } from '../build/build-layer.js'
import { type MergeableLayer, encodeLayerRecord, optionsDigest, parseLayerRecord } from './layer-record.js'
import type { BlobPool } from '../../erofs/blob-pool.js'
import type { Dictionary } from './dictionary.js'
import type { SourceImage } from './source-image.js'

export interface BuildCacheOptions {
  readonly store: ImageStore
  /** Where the layers of the conversion are, once it is done. */
  readonly target: ImageTarget & ImageSource
  /** A cache of another version is ignored, and replaced. */
  readonly version: string
  /** Layers that it may remember. */
  readonly maxRecords: number
  readonly layer: LayerOptions
  readonly dictionary: Dictionary | undefined
  readonly pool: BlobPool
}

type Annotations = Readonly<Record<string, string>>

interface CacheRecord {
  readonly sourceDigest: string
  /** Digest of what the layer was built with: other options give another blob. */
  readonly optionsDigest: string
  readonly blob: LayerEntry
  readonly record: LayerEntry
}

type LayerEntry = Pick<Descriptor, 'mediaType' | 'digest' | 'size' | 'annotations'>

const CACHE_ANNOTATION = {
  /** On the manifest: its version. */
  cache: 'containerd.io/snapshot/nydus-cache',
  sourceDigest: 'containerd.io/snapshot/nydus-source-digest',
  sourceChainId: 'containerd.io/snapshot/nydus-source-chainid',
  blobDigest: 'containerd.io/snapshot/nydus-blob-digest',
  blobSize: 'containerd.io/snapshot/nydus-blob-size',
  options: 'containerd.io/snapshot/nydus-build-options',
} as const

/** A record holds a layer's metadata: far less than this, even for millions of files. */
const MAX_RECORD_BYTES = 1 << 30
const CONFIG = Buffer.from('{"architecture":"","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}')

export class BuildCache {
  readonly #options: BuildCacheOptions
  readonly #optionsDigest: string
  /** Newest first. */
  readonly #records: CacheRecord[]
  /** Of this conversion, which become the newest. */
  readonly #used = new Map<string, CacheRecord>()
  /** Records to upload, by digest. */
  readonly #fresh = new Map<string, Buffer>()

  private constructor(options: BuildCacheOptions, records: CacheRecord[]) {
    this.#options = options
    this.#records = records
    this.#optionsDigest = optionsDigest(options.layer, options.dictionary)
  }

  /** Reads the cache; one that is not there, or of another version, is an empty one. @throws REGISTRY_* */
  static async open(options: BuildCacheOptions, signal: AbortSignal): Promise<BuildCache> {
    const { store, version } = options
    try {
      const { content } = await store.resolve({ signal })
      const isCurrent = content.kind === 'manifest' && content.annotations[CACHE_ANNOTATION.cache] === version
      return new BuildCache(options, isCurrent ? parseRecords(content.layers) : [])
    } catch (err) {
      if (isFault(err, 'REGISTRY_NOT_FOUND')) return new BuildCache(options, [])
      throw err
    }
  }

  /** The layer as it was converted before, its data blob brought to the target; undefined when it is not known. */
  async take(
    sourceDigest: string,
    target: BlobTarget,
    signal: AbortSignal,
  ): Promise<MergeableLayer | undefined> {
    const known = this.#find(sourceDigest)
    if (!known) return undefined
    const { store, pool } = this.#options
    try {
      const layer = await parseLayerRecord(
        await readBlob(store, known.record, MAX_RECORD_BYTES, { signal }),
        pool,
      )
      await ensureBlob(target, known.blob, store, { signal })
      if (`sha256:${layer.digestHex}` === known.blob.digest) return layer
    } catch (err) {
      if (!isLoss(err)) throw err
    }
    // What the cache lost or spoilt is built again.
    this.#records.splice(this.#records.indexOf(known), 1)
    return undefined
  }

  /** Remembers a layer of the conversion. */
  async add(image: SourceImage, index: number, layer: MergeableLayer): Promise<void> {
    const sourceDigest = image.manifest.layers[index]?.digest ?? ''
    const known = this.#find(sourceDigest)
    const isSame = known?.blob.digest === `sha256:${layer.digestHex}`
    if (this.#used.has(sourceDigest)) return
    this.#used.set(sourceDigest, known && isSame ? known : await this.#record(image, index, layer))
  }

  /** Stores the cache with the layers of this conversion in front. */
  async publish({ signal }: StoreOptions): Promise<void> {
    const { store, version, maxRecords, layer } = this.#options
    const options = { signal }
    const older = this.#records.filter(
      one => one.optionsDigest !== this.#optionsDigest || !this.#used.has(one.sourceDigest),
    )
    const records: CacheRecord[] = []
    for (const record of [...this.#used.values(), ...older].slice(0, maxRecords))
      if (await this.#store(record, options)) records.push(record)
    const config = { digest: sha256(CONFIG), size: CONFIG.length }
    await putBlobOnce(store, config, () => [CONFIG], options)
    const manifest = {
      schemaVersion: 2,
      mediaType: MEDIA_TYPE.ociManifest,
      config: { mediaType: MEDIA_TYPE.ociConfig, ...config },
      layers: records.flatMap(({ blob, record }) => [blob, record]),
      annotations: {
        [CACHE_ANNOTATION.cache]: version,
        [ANNOTATION.nydusFsVersion]: String(layer.version),
      },
    }
    const bytes = Buffer.from(JSON.stringify(manifest))
    await store.putManifest(MEDIA_TYPE.ociManifest, bytes, { ...options, named: true })
    await store.commit()
  }

  /** Makes the cache hold both parts of a record; false where one of an older record is lost. */
  async #store({ blob, record }: CacheRecord, options: StoreOptions): Promise<boolean> {
    const { store, target } = this.#options
    try {
      await ensureBlob(store, blob, target, options)
    } catch (err) {
      if (isLoss(err)) return false
      throw err
    }
    const bytes = this.#fresh.get(record.digest)
    if (!bytes) return store.hasBlob(record, options)
    await putBlobOnce(store, record, () => [bytes], options)
    return true
  }

  #find(sourceDigest: string): CacheRecord | undefined {
    return this.#records.find(
      one => one.sourceDigest === sourceDigest && one.optionsDigest === this.#optionsDigest,
    )
  }

  async #record(image: SourceImage, index: number, layer: MergeableLayer): Promise<CacheRecord> {
    const sourceDigest = image.manifest.layers[index]?.digest ?? ''
    const bytes = await encodeLayerRecord(layer, this.#options.layer)
    const digest = sha256(bytes)
    this.#fresh.set(digest, bytes)
    const blobDigest = `sha256:${layer.digestHex}`
    const source = {
      [CACHE_ANNOTATION.sourceDigest]: sourceDigest,
      [CACHE_ANNOTATION.sourceChainId]: chainId(image.config.diffIds.slice(0, index + 1)),
    }
    return {
      sourceDigest,
      optionsDigest: this.#optionsDigest,
      blob: entry(MEDIA_TYPE.nydusBlob, blobDigest, layer.sizeBytes, {
        ...source,
        [ANNOTATION.nydusBlob]: 'true',
      }),
      record: entry(MEDIA_TYPE.ociLayerGzip, digest, bytes.length, {
        ...source,
        [CACHE_ANNOTATION.blobDigest]: blobDigest,
        [CACHE_ANNOTATION.blobSize]: String(layer.sizeBytes),
        [CACHE_ANNOTATION.options]: this.#optionsDigest,
      }),
    }
  }
}

function isLoss(err: unknown): boolean {
  return isFault(err) && (err.kind === 'not_found' || err.kind === 'corrupt')
}

function entry(mediaType: string, digest: string, size: number, annotations: Annotations): LayerEntry {
  return { mediaType, digest, size, annotations }
}

/** Pairs of data blob and record, as `publish` writes them; what is no such pair is passed over. */
function parseRecords(layers: readonly Descriptor[]): CacheRecord[] {
  return layers.flatMap((record, i) => {
    const blob = layers[i - 1]
    const sourceDigest = record.annotations[CACHE_ANNOTATION.sourceDigest]
    const optionsDigest = record.annotations[CACHE_ANNOTATION.options]
    const isPair = blob !== undefined && record.annotations[CACHE_ANNOTATION.blobDigest] === blob.digest
    if (!isPair || sourceDigest === undefined || optionsDigest === undefined) return []
    return [{ sourceDigest, optionsDigest, blob, record }]
  })
}

/** What names a stack of layers (OCI image-spec, "Layer ChainID"). */
function chainId(diffIds: readonly string[]): string {
  const [first = '', ...rest] = diffIds
  return rest.reduce(
    (chain, diffId) => `sha256:${createHash('sha256').update(`${chain} ${diffId}`).digest('hex')}`,
    first,
  )
}
