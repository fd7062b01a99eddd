import { asFault, fault } from '../common/fault.js'
import { type Descriptor, type ImageConfig, type Manifest, parseImageConfig } from '../oci/manifest.js'
import { type WantedPlatform, isNydusEntry, selectManifest } from '../oci/platform.js'
import { type Reference, formatReference, manifestSelector } from '../oci/reference.js'
import type { FetchedManifest, RegistryClient } from '../oci/registry-client.js'
import { type Labels, Snapshots, createLease, deleteLease, putImage } from './containerd.js'
import { ContentStore, type ObjectSource } from './content-store.js'
import { chainIds, configLabels, indexLabels, manifestLabels, sourceLabels } from './labels.js'
import { LayerFetches } from './layer-fetches.js'
import type { Rpc } from './rpc.js'
import { isNydusBlob, unpackLayers } from './unpack.js'

/** As many layers at once as containerd's own pull. */
const LAYERS_AT_ONCE = 3
const MAX_CONFIG_BYTES = 8 << 20

export interface PullOptions {
  reference: Reference
  snapshotter: string
  platform: WantedPlatform
  /** Labels of the image record. */
  labels: Labels
}

/** Told of every object that is fetched, and of each piece of it. */
export interface PullProgress {
  fetching(object: Descriptor): void
  received(object: Descriptor, bytes: number): void
  fetched(object: Descriptor): void
}

export interface PullResult {
  digest: string
  layers: number
  /** Layers that the snapshotter had, or serves from the registry. */
  unfetchedLayers: number
}

/**
 * Pulls an image into containerd and unpacks it on the way, asking the snapshotter for each layer before it is fetched.
 * The image record is made last and all else is held by a lease, so that a failure leaves nothing.
 * @throws faults of the registry (REGISTRY_*, MANIFEST_*, DIGEST_MISMATCH) and of containerd (CONTAINERD_*), CANCELLED
 */
export async function pullImage(
  rpc: Rpc,
  registry: RegistryClient,
  options: PullOptions,
  progress: PullProgress,
  signal: AbortSignal,
): Promise<PullResult> {
  const lease = await createLease(rpc)
  let result: PullResult
  try {
    result = await new Pull(rpc, registry, options, progress, signal).run()
  } catch (err) {
    try {
      await deleteLease(rpc, lease, true)
    } catch (second) {
      const why = asFault(second).message
      throw fault(
        asFault(err).code,
        `${asFault(err).message}; and lease ${lease} could not be deleted: ${why}`,
        {
          cause: err,
        },
      )
    }
    throw err
  }
  await deleteLease(rpc, lease, false)
  return result
}

class Pull {
  readonly #rpc: Rpc
  readonly #registry: RegistryClient
  readonly #options: PullOptions
  readonly #progress: PullProgress
  readonly #signal: AbortSignal
  readonly #store: ContentStore
  /** The name of containerd's image record, and what the snapshotter is told. */
  readonly #name: string
  readonly #origin: Labels

  constructor(
    rpc: Rpc,
    registry: RegistryClient,
    options: PullOptions,
    progress: PullProgress,
    signal: AbortSignal,
  ) {
    this.#rpc = rpc
    this.#registry = registry
    this.#options = options
    this.#progress = progress
    this.#signal = signal
    this.#store = new ContentStore(rpc)
    this.#name = formatReference(options.reference)
    this.#origin = sourceLabels(options.reference.domain, options.reference.repository)
  }

  async run(): Promise<PullResult> {
    const { snapshotter, labels } = this.#options
    const { target, digest, manifest } = await this.#resolve()
    const config = await this.#fetchConfig(manifest)
    const plan = {
      image: { reference: this.#name, manifestDigest: digest },
      layers: manifest.layers,
      diffIds: config.diffIds,
    }
    const fetches = new LayerFetches(
      manifest.layers.flatMap((layer, i) => (isNydusBlob(layer) ? [] : [i])),
      LAYERS_AT_ONCE,
      this.#signal,
      (i, signal) => this.#fetchLayer(manifest.layers[i], signal),
    )
    const snapshots = new Snapshots(this.#rpc, snapshotter)
    let unfetched: number[]
    try {
      unfetched = await unpackLayers(this.#rpc, this.#store, snapshots, plan, fetches, this.#signal)
    } finally {
      await fetches.stop()
    }
    await putImage(this.#rpc, this.#name, target, labels)
    return { digest: target.digest, layers: manifest.layers.length, unfetchedLayers: unfetched.length }
  }

  /** Brings index and manifest into the store and says which of them the image record shall name. */
  async #resolve(): Promise<{ target: Descriptor; digest: string; manifest: Manifest }> {
    const { reference, platform, snapshotter } = this.#options
    const root = await this.#fetchManifest(manifestSelector(reference))
    if (root.content.kind === 'manifest') {
      await this.#storeManifest(root, root.content)
      return { target: root.descriptor, digest: root.descriptor.digest, manifest: root.content }
    }
    const entry = selectManifest(root.content, snapshotter === 'nydus' ? 'nydus' : 'plain', platform)
    const chosen = await this.#fetchManifest(entry.digest)
    if (chosen.content.kind !== 'manifest') {
      throw fault(
        'MANIFEST_INVALID',
        `${this.#name} leads from an index to another index: push the image again`,
      )
    }
    await this.#storeBytes(root.descriptor, root.bytes, indexLabels(root.content.manifests))
    await this.#storeManifest(chosen, chosen.content)
    // containerd would choose the plain twin of a nydus manifest: its record then names the manifest itself.
    const target = isNydusEntry(entry) ? chosen.descriptor : root.descriptor
    return { target, digest: chosen.descriptor.digest, manifest: chosen.content }
  }

  #fetchManifest(selector: string): Promise<FetchedManifest> {
    const { repository } = this.#options.reference
    return this.#registry.fetchManifest(repository, selector, { signal: this.#signal })
  }

  async #storeManifest({ descriptor, bytes }: FetchedManifest, manifest: Manifest): Promise<void> {
    await this.#storeBytes(descriptor, bytes, manifestLabels(manifest.config, manifest.layers))
  }

  async #storeBytes(descriptor: Descriptor, bytes: Uint8Array, labels: Labels): Promise<void> {
    this.#progress.fetching(descriptor)
    await this.#store.ensure(descriptor, { ...this.#origin, ...labels }, () => [bytes], this.#signal)
    this.#progress.fetched(descriptor)
  }

  async #fetchConfig(manifest: Manifest): Promise<ImageConfig> {
    const { config: descriptor, layers } = manifest
    const { repository } = this.#options.reference
    const options = { signal: this.#signal }
    const bytes = await this.#registry.fetchBlob(repository, descriptor, MAX_CONFIG_BYTES, options)
    const config = parseImageConfig(bytes, this.#name)
    if (config.diffIds.length !== layers.length) {
      throw fault(
        'MANIFEST_INVALID',
        `${this.#name} has ${layers.length} layers, but its config names ${config.diffIds.length}: push the image again`,
      )
    }
    const topChainId = chainIds(config.diffIds).at(-1)
    await this.#storeBytes(descriptor, bytes, configLabels(this.#options.snapshotter, topChainId))
    return config
  }

  async #fetchLayer(layer: Descriptor | undefined, signal: AbortSignal): Promise<void> {
    if (!layer) return
    const { repository } = this.#options.reference
    const source: ObjectSource = () => {
      this.#progress.fetching(layer)
      return this.#registry.streamBlob(repository, layer, { signal })
    }
    const count = (bytes: number): void => this.#progress.received(layer, bytes)
    if (await this.#store.ensure(layer, this.#origin, source, signal, count)) this.#progress.fetched(layer)
  }
}
