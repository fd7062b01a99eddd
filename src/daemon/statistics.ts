/** What the services of the daemon count, for its API. */
import type {
  AccessPattern,
  BackendMetrics,
  BlobcacheMetrics,
  FileMetrics,
  FsMetrics,
  InflightInfo,
  InodeRange,
  KernelMetrics,
  SuperblockInfo,
} from '../client/api.js'
import { fault } from '../common/fault.js'
import { SIZE_CLASSES } from '../common/size-class.js'
import { type FuseServer, type ImageStats, OPERATIONS } from '../fuse/server.js'
import { accessPatterns, fileMetrics, fsMetrics, inflightInfo } from './fs-metrics.js'
import type { FuseService } from './fuse-service.js'
import type { KernelService } from './kernel-service.js'
import { backendMetrics, blobcacheMetrics } from './metrics.js'
import type { MountedImage } from './mounted-image.js'
import type { StatisticsActions } from './routes.js'
import { superblockInfo } from './superblock-info.js'

export class Statistics implements StatisticsActions {
  readonly #kernel: KernelService | undefined
  readonly #fuse: FuseService | undefined

  constructor(kernel: KernelService | undefined, fuse: FuseService | undefined) {
    this.#kernel = kernel
    this.#fuse = fuse
  }

  mount(id: string | undefined): FsMetrics | KernelMetrics {
    const kernel = this.#kernelFor(id)
    if (kernel) return kernelMetrics(kernel)
    const { mounted, server } = this.#chosen(id)
    const { path } = mounted.record
    return fsMetrics(path, mounted.accounting, server.stats(path))
  }

  async files(id: string | undefined): Promise<Record<string, FileMetrics>> {
    const { mounted, server } = this.#chosen(id)
    return fileMetrics(mounted.accounting, await server.fileStats(mounted.record.path))
  }

  async latestReads(id: string | undefined): Promise<readonly InodeRange[]> {
    const { mounted, server } = this.#chosen(id)
    return server.takeLatestReads(mounted.record.path)
  }

  async accessPatterns(id: string | undefined): Promise<AccessPattern[]> {
    const { mounted, server } = this.#chosen(id)
    return accessPatterns(mounted.accounting, await server.fileStats(mounted.record.path))
  }

  /** Images of a kernel path are counted as one. */
  backend(id: string | undefined): BackendMetrics {
    const { instances } = this.#kernelFor(id) ?? {}
    if (instances) return backendMetrics(instances.backendTypes().join(', '), instances.reads)
    const { mounted } = this.#chosen(id)
    return backendMetrics(mounted.image.backend.type, mounted.reads)
  }

  blobcache(id: string | undefined): BlobcacheMetrics {
    if (this.#kernel && !id?.startsWith('/')) {
      const { instances, cache } = this.#kernel
      const blobs = instances.blobs(id)
      if (id === undefined || blobs.length > 0)
        return blobcacheMetrics(id ?? '', cache.directory, blobs, cache.counters, undefined)
    }
    const { config, cache, blobs, prefetchStats } = this.#withCache(id)
    return blobcacheMetrics(config.id, cache.directory, blobs, cache.counters, prefetchStats)
  }

  inflight(): InflightInfo[] {
    return this.#fuse?.server?.inflight().map(inflightInfo) ?? []
  }

  superblock(mountpoint: string): SuperblockInfo {
    const { mounted } = this.#chosen(mountpoint)
    return superblockInfo(mounted.image.source, mounted.config.rafs.batch_size)
  }

  /** Upstream's name for all that a kernel path serves is `/`; a FUSE mount there comes first. */
  #kernelFor(id: string | undefined): KernelService | undefined {
    return id === undefined || (id === '/' && !this.#fuse?.mounts.has('/')) ? this.#kernel : undefined
  }

  /** @throws INSTANCE_UNKNOWN */
  #chosen(id: string | undefined): { mounted: MountedImage; server: FuseServer } {
    const { server } = this.#fuse ?? {}
    const mounted = this.#fuse && (id === undefined ? this.#only() : this.#fuse.find(id))
    if (mounted && server) return { mounted, server }
    throw fault('INSTANCE_UNKNOWN', 'this daemon has mounted nothing by FUSE')
  }

  #withCache(id: string | undefined): MountedImage {
    const mounts = [...(this.#fuse?.mounts.values() ?? [])]
    return mounts.find(({ config }) => id !== undefined && config.id === id) ?? this.#chosen(id).mounted
  }

  #only(): MountedImage | undefined {
    const [mounted, ...others] = this.#fuse?.mounts.values() ?? []
    if (others.length === 0) return mounted
    throw fault('INSTANCE_UNKNOWN', `${others.length + 1} images are mounted: name one with ?id=/PATH`)
  }
}

/** Requests that never came: the kernel answers its readers by itself. */
const NO_REQUESTS: ImageStats = {
  opens: 0,
  dataReadBytes: 0,
  readsBySize: new Array<number>(SIZE_CLASSES).fill(0),
  hits: OPERATIONS.map(() => 0),
  errors: OPERATIONS.map(() => 0),
  latencyTotalUs: OPERATIONS.map(() => 0),
  readsByLatency: new Array<number>(8).fill(0),
}

function kernelMetrics({ driver, instances, cache }: KernelService): KernelMetrics {
  const { eventsAnswered, eventsDenied, eventsPending } = driver.stats()
  return {
    ...fsMetrics('/', { files: false, pattern: false, latest: false }, NO_REQUESTS),
    driver: driver.name,
    instances: instances.size,
    events_answered: eventsAnswered,
    events_denied: eventsDenied,
    events_pending: eventsPending,
    cache: { ...cache.counters, held_bytes: cache.heldBytes },
  }
}
