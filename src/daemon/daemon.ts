/**
 * nydusd: one shared process that serves every image of a node through a kernel path.
 *
 * Invariants: nobody here reads through a mount that this process serves; starting asks no network; the API answers
 * before anything slow; stopping leaves unanswered events to whoever holds the descriptors.
 */
import type { Server } from 'node:http'
import type {
  AccessPattern,
  BackendMetrics,
  BlobCacheEntry,
  BlobcacheMetrics,
  DaemonEvents,
  DaemonInfo,
  DescriptorInfo,
  FileMetrics,
  InflightInfo,
  InodeRange,
  InstanceInfo,
  KernelMetrics,
  MountCommand,
  SuperblockInfo,
} from '../client/api.js'
import { fault } from '../common/fault.js'
import { LOG_LEVELS, type Logger, pinoLevel } from '../common/log.js'
import { readVersion } from '../common/version.js'
import { Caches } from './caches.js'
import { KernelService, type KernelServiceOptions, type ServiceContext } from './kernel-service.js'
import { blobcacheMetrics } from './metrics.js'
import type { Actions } from './routes.js'
import { EventRing } from './event-ring.js'
import { RuntimeSettings } from './runtime-settings.js'
import { serveApi } from './server.js'
import { StateMachine } from './state.js'

export interface DaemonOptions {
  id: string | null
  supervisor: string | null
  kernel: KernelServiceOptions
  apiSocket: string
  /** Stay in INIT and serve only after /api/v1/daemon/start. */
  passive: boolean
  validate: boolean
  /** Descriptors handed down by a supervisor, by name. */
  kept: Map<string, number>
  logger: Logger
}

const VERSION = readVersion()

export class Daemon implements Actions {
  readonly #options: DaemonOptions
  readonly #logger: Logger
  readonly #state = new StateMachine()
  readonly #events = new EventRing()
  readonly #settings = new RuntimeSettings()
  readonly #caches: Caches
  readonly #kernel: KernelService
  readonly #ended: Promise<void>
  #end: (stopped: Promise<void>) => void = () => undefined
  #stopping = false
  #server: Server | undefined

  private constructor(options: DaemonOptions, caches: Caches, kernel: KernelService) {
    this.#options = options
    this.#logger = options.logger
    this.#caches = caches
    this.#kernel = kernel
    this.#ended = new Promise(resolve => (this.#end = resolve))
  }

  /** @throws DRIVER_UNSUPPORTED, STORE_LOCKED, CACHE_IO */
  static async open(options: DaemonOptions): Promise<Daemon> {
    const { kept, logger, validate } = options
    if (!validate) logger.warn('chunk digests are not checked: wrong bytes will not be noticed')
    const caches = new Caches(logger)
    const context: ServiceContext = { caches, kept, validate, logger }
    return new Daemon(options, caches, await KernelService.open(options.kernel, context))
  }

  /** Answers the API, and serves unless it is to wait for its start, until it is stopped. @throws ADDRESS_IN_USE */
  async run(onReady: () => Promise<void>): Promise<void> {
    this.#server = await serveApi(this.#options.apiSocket, this, this.#logger)
    if (!this.#options.passive) await this.start()
    await onReady()
    await this.#ended
  }

  /** SIGTERM or /daemon/exit: stop serving, then end. Mounts and descriptors are the supervisor's. */
  stop(): void {
    if (this.#stopping) return
    this.#stopping = true
    this.#end(this.#stop())
  }

  async #stop(): Promise<void> {
    this.#logger.info({ instances: this.#kernel.instances.size }, 'stopping')
    await this.#kernel.driver.stop()
    this.#server?.close()
    this.#server?.closeAllConnections()
    await this.#kernel.instances.close()
    await this.#caches.closeAll()
  }

  info(): DaemonInfo {
    const { id, supervisor } = this.#options
    return {
      id,
      version: {
        package_ver: VERSION.version,
        git_commit: VERSION.revision,
        build_time: VERSION.buildTime,
        profile: 'release',
        rustc: `node ${process.version}`,
      },
      supervisor,
      state: this.#state.state,
      backend_collection: {},
      driver: this.#kernel.driver.name,
      pid: process.pid,
    }
  }

  setLogLevel(level: string): void {
    if (level.toLowerCase() === 'off') this.#logger.level = 'silent'
    else if ((LOG_LEVELS as readonly string[]).includes(level.toLowerCase()))
      this.#logger.level = pinoLevel(level)
    else
      throw fault(
        'CONFIG_INVALID',
        `unknown log level ${JSON.stringify(level)}: off, error, warn, info, debug, trace`,
      )
  }

  async start(): Promise<void> {
    if (this.#state.state === 'INIT') await this.#state.apply('mount')
    await this.#state.apply('start', () => this.#kernel.driver.start())
    for (const [name, fd] of this.#options.kept) {
      this.#logger.warn({ name, fd }, 'a kept descriptor belongs to no bound image')
    }
  }

  async exit(): Promise<void> {
    // Answer first: the process is gone right after.
    setImmediate(() => this.stop())
    return Promise.resolve()
  }

  descriptors(): DescriptorInfo[] {
    return this.#kernel.driver.descriptors().map(({ name, fd }) => ({ name, fd }))
  }

  async bind(entry: BlobCacheEntry): Promise<void> {
    await this.#kernel.instances.bind(entry)
  }

  async unbind(domainId: string, id: string | undefined): Promise<void> {
    await (id === undefined
      ? this.#kernel.instances.unbindDomain(domainId)
      : this.#kernel.instances.unbind(domainId, id))
  }

  instances(domainId: string | undefined, id: string | undefined): InstanceInfo[] {
    return this.#kernel.instances.list(domainId, id)
  }

  mounted(domainId: string, id: string): void {
    this.#kernel.instances.mounted(domainId, id)
  }

  events(): DaemonEvents {
    return this.#events.list()
  }

  settings(id: string | undefined): Record<string, string> {
    return this.#settings.list(id)
  }

  putSettings(id: string | undefined, settings: Record<string, string>): void {
    this.#settings.put(id, settings)
  }

  sendDescriptor(): Promise<void> {
    throw noFileSystem()
  }

  takeOver(): Promise<void> {
    throw noFileSystem()
  }

  mountImage(_mountpoint: string, _command: MountCommand): Promise<void> {
    throw noFileSystem()
  }

  remountImage(_mountpoint: string, _command: MountCommand): Promise<void> {
    throw noFileSystem()
  }

  unmountImage(_mountpoint: string): Promise<void> {
    throw noFileSystem()
  }

  ownConfig(): string {
    throw noFileSystem()
  }

  superblock(_mountpoint: string): SuperblockInfo {
    throw noFileSystem()
  }

  fileMetrics(_id: string | undefined): Promise<Record<string, FileMetrics>> {
    throw noFileSystem()
  }

  latestReads(_id: string | undefined): Promise<readonly InodeRange[]> {
    throw noFileSystem()
  }

  accessPatterns(_id: string | undefined): Promise<AccessPattern[]> {
    throw noFileSystem()
  }

  backendMetrics(_id: string | undefined): BackendMetrics {
    throw noFileSystem()
  }

  inflight(): InflightInfo[] {
    return []
  }

  cullBlob(_blobId: string): Promise<void> {
    throw noFileSystem()
  }

  /** Upstream serves file-system statistics here; a kernel path has none: the driver's events take their place. */
  fsMetrics(_id: string | undefined): KernelMetrics {
    const { eventsAnswered, eventsDenied, eventsPending } = this.#kernel.driver.stats()
    return {
      driver: this.#kernel.driver.name,
      instances: this.#kernel.instances.size,
      events_answered: eventsAnswered,
      events_denied: eventsDenied,
      events_pending: eventsPending,
      cache: { ...this.#kernel.cache.counters, held_bytes: this.#kernel.cache.heldBytes },
    }
  }

  blobcacheMetrics(id: string | undefined): BlobcacheMetrics {
    const blobs = this.#kernel.instances.blobs(id)
    if (id !== undefined && blobs.length === 0) throw fault('INSTANCE_UNKNOWN', `no image is bound as ${id}`)
    return blobcacheMetrics(this.#kernel.cache.directory, blobs, this.#kernel.cache.counters)
  }
}

function noFileSystem(): Error {
  return fault(
    'UNIMPLEMENTED',
    'a shared daemon of the kernel path mounts nothing itself: bind the image with PUT /api/v2/blobs and mount EROFS',
  )
}
