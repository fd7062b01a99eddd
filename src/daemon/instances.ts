import { createBackend } from '../backend/create.js'
import { ReadStatistics } from '../backend/read-statistics.js'
import type { CachedBlob } from '../cache/cached-blob.js'
import type { ChunkCache } from '../cache/chunk-cache.js'
import type { Driver, Instance, MountPlan } from '../cache/driver.js'
import type { BlobCacheEntry, InstanceInfo } from '../client/api.js'
import { fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { Bootstrap } from '../erofs/bootstrap.js'
import { findCanary } from './canary.js'
import { Image } from './image.js'

export interface InstancesOptions {
  cache: ChunkCache
  driver: Driver
  /** Descriptors of a predecessor, by name; those that are used are taken out. */
  kept: Map<string, number>
  validate: boolean
  logger: Logger
}

interface Bound {
  readonly instance: Instance
  readonly bootstrap: Bootstrap
  readonly image: Image
  readonly plan: MountPlan
}

/** The images of the daemon: each a bootstrap, a backend, and blobs of the cache, known to the driver. */
export class Instances {
  /** Reads of the backends of all of them. */
  readonly reads = new ReadStatistics()
  readonly #options: InstancesOptions
  readonly #bound = new Map<string, Bound>()
  /** Bindings and unbindings of one key run one after the other. */
  readonly #busy = new Map<string, Promise<unknown>>()

  constructor(options: InstancesOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#bound.size
  }

  /**
   * Makes an image known; afterwards it can be mounted. Asks no network.
   * @throws INSTANCE_EXISTS, FILE_MISSING, RAFS_*, CONFIG_INVALID, CACHE_*
   */
  async bind(entry: BlobCacheEntry): Promise<void> {
    const key = keyOf(entry.domain_id, entry.id)
    await this.#exclusively(key, async () => {
      if (this.#bound.has(key)) throw fault('INSTANCE_EXISTS', `${key} is bound already`)
      this.#bound.set(key, await this.#open(key, entry))
    })
  }

  /** @throws INSTANCE_UNKNOWN */
  async unbind(domainId: string, id: string): Promise<void> {
    const key = keyOf(domainId, id)
    await this.#exclusively(key, async () => {
      const bound = this.#find(key)
      this.#bound.delete(key)
      await this.#options.driver.detach(key)
      await bound.image.close()
    })
  }

  async unbindDomain(domainId: string): Promise<void> {
    for (const { instance } of this.#inDomain(domainId)) await this.unbind(domainId, instance.id)
  }

  /**
   * The instances of a domain, or of all; with both names the one that they mean, and its canary.
   * @throws INSTANCE_UNKNOWN when an id is given and not bound
   */
  list(domainId: string | undefined, id: string | undefined): InstanceInfo[] {
    if (domainId !== undefined && id !== undefined) {
      const bound = this.#find(keyOf(domainId, id))
      return [{ ...this.#describe(bound), canary: findCanary(bound.bootstrap, bound.image.blobs) }]
    }
    const found = [...this.#bound.values()].filter(
      ({ instance }) =>
        (domainId === undefined || instance.domainId === domainId) &&
        (id === undefined || instance.id === id),
    )
    if (id !== undefined && found.length === 0) throw fault('INSTANCE_UNKNOWN', `no image is bound as ${id}`)
    return found.map(bound => this.#describe(bound))
  }

  /** Mount and canary are done. @throws INSTANCE_UNKNOWN */
  mounted(domainId: string, id: string): void {
    const { instance } = this.#find(keyOf(domainId, id))
    this.#options.driver.setProber(0)
    this.#options.driver.mounted(instance.key)
  }

  /** Types of the backends in use, each once. */
  backendTypes(): string[] {
    return [...new Set([...this.#bound.values()].map(({ image }) => image.backend.type))]
  }

  /** Every blob that an instance uses, once. */
  blobs(id?: string): CachedBlob[] {
    const chosen = [...this.#bound.values()].filter(({ instance }) => id === undefined || instance.id === id)
    return [...new Set(chosen.flatMap(({ image }) => image.blobs))]
  }

  async close(): Promise<void> {
    for (const { image } of this.#bound.values()) await image.backend.close()
  }

  async #open(key: string, entry: BlobCacheEntry): Promise<Bound> {
    const { cache, driver, kept, validate, logger } = this.#options
    const { config } = entry
    const backend = createBackend(config.backend_type, config.backend_config, { logger })
    const bootstrapPath = config.metadata_path
    const image = await Image.open({
      bootstrapPath,
      backend,
      cache,
      kept,
      validate,
      logger,
      statistics: this.reads,
    })
    try {
      const bootstrap = Bootstrap.open(image.source)
      const instance: Instance = {
        key,
        domainId: entry.domain_id,
        id: entry.id,
        bootstrapPath,
        bootstrap: image.source,
        blobs: image.blobs,
      }
      driver.setProber(entry.prober_pid ?? 0)
      const plan = await driver.attach(instance)
      logger.info({ instance: key, metadataPath: bootstrapPath, blobs: image.blobs.length }, 'image bound')
      return { instance, bootstrap, image, plan }
    } catch (err) {
      await image.close()
      throw err
    }
  }

  #describe(bound: Bound): InstanceInfo {
    const { instance, image, plan } = bound
    return {
      id: instance.id,
      domain_id: instance.domainId,
      metadata_path: instance.bootstrapPath,
      driver: this.#options.driver.name,
      mount: plan.kind === 'file' ? { ...plan, devices: [...plan.devices] } : plan,
      blobs: image.blobs.map(blob => ({
        blob_id: blob.blobId,
        size_bytes: blob.sizeBytes,
        complete: blob.complete,
      })),
    }
  }

  #find(key: string): Bound {
    const bound = this.#bound.get(key)
    if (!bound) throw fault('INSTANCE_UNKNOWN', `no image is bound as ${key}`)
    return bound
  }

  #inDomain(domainId: string): Bound[] {
    return [...this.#bound.values()].filter(({ instance }) => instance.domainId === domainId)
  }

  async #exclusively(key: string, task: () => Promise<void>): Promise<void> {
    const before = this.#busy.get(key) ?? Promise.resolve()
    const run = before.then(task, task)
    this.#busy.set(key, run)
    try {
      await run
    } finally {
      if (this.#busy.get(key) === run) this.#busy.delete(key)
    }
  }
}

function keyOf(domainId: string, id: string): string {
  return `${domainId}/${id}`
}
