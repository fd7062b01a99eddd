/**
 * nydusd: one shared process that serves every image of a node through a kernel path.
 *
 * Invariants: nobody here reads through a mount that this process serves; starting asks no network; the API answers
 * before anything slow; stopping leaves unanswered events to whoever holds the descriptors.
 */
import type { Server } from 'node:http'
import { ChunkCache } from '../cache/chunk-cache.js'
import type { Driver } from '../cache/driver.js'
import type { BlobCacheEntry, DaemonInfo, DescriptorInfo, InstanceInfo } from '../client/api.js'
import { fault } from '../common/fault.js'
import { LOG_LEVELS, type Logger, pinoLevel } from '../common/log.js'
import { readVersion } from '../common/version.js'
import { chooseDriver, type DriverChoice } from './choose-driver.js'
import { Instances } from './instances.js'
import { blobcacheMetrics, type BlobcacheMetrics } from './metrics.js'
import type { Actions } from './routes.js'
import { serveApi } from './server.js'
import { StateMachine } from './state.js'

export interface DaemonOptions {
  id: string | null
  supervisor: string | null
  cacheDirectory: string
  fscacheTag?: string
  runDirectory: string
  apiSocket: string
  driver: DriverChoice
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
  readonly #cache: ChunkCache
  readonly #driver: Driver
  readonly #instances: Instances
  readonly #ended: Promise<void>
  #end: (stopped: Promise<void>) => void = () => undefined
  #stopping = false
  #server: Server | undefined

  /** @throws DRIVER_UNSUPPORTED, CACHE_IO */
  constructor(options: DaemonOptions) {
    this.#options = options
    this.#logger = options.logger
    this.#ended = new Promise(resolve => (this.#end = resolve))
    this.#cache = ChunkCache.open({ directory: options.cacheDirectory, logger: options.logger })
    this.#driver = chooseDriver({
      choice: options.driver,
      cacheDirectory: options.cacheDirectory,
      ...(options.fscacheTag === undefined ? {} : { fscacheTag: options.fscacheTag }),
      runDirectory: options.runDirectory,
      kept: options.kept,
      logger: options.logger,
    })
    this.#instances = new Instances({
      cache: this.#cache,
      driver: this.#driver,
      kept: options.kept,
      validate: options.validate,
      logger: options.logger,
    })
    if (!options.validate) this.#logger.warn('chunk digests are not checked: wrong bytes will not be noticed')
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
    this.#logger.info({ instances: this.#instances.size }, 'stopping')
    await this.#driver.stop()
    this.#server?.close()
    this.#server?.closeAllConnections()
    await this.#instances.close()
    await this.#cache.close()
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
      driver: this.#driver.name,
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
    await this.#state.apply('start', () => this.#driver.start())
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
    return this.#driver.descriptors().map(({ name, fd }) => ({ name, fd }))
  }

  async bind(entry: BlobCacheEntry): Promise<void> {
    await this.#instances.bind(entry)
  }

  async unbind(domainId: string, id: string | undefined): Promise<void> {
    await (id === undefined ? this.#instances.unbindDomain(domainId) : this.#instances.unbind(domainId, id))
  }

  instances(domainId: string | undefined, id: string | undefined): InstanceInfo[] {
    return this.#instances.list(domainId, id)
  }

  mounted(domainId: string, id: string): void {
    this.#instances.mounted(domainId, id)
  }

  /** Upstream serves file-system statistics here; a kernel path has none: the driver's events take their place. */
  metrics(): unknown {
    const { eventsAnswered, eventsDenied, eventsPending } = this.#driver.stats()
    return {
      driver: this.#driver.name,
      instances: this.#instances.size,
      events_answered: eventsAnswered,
      events_denied: eventsDenied,
      events_pending: eventsPending,
      cache: { ...this.#cache.counters, held_bytes: this.#cache.heldBytes },
    }
  }

  blobcacheMetrics(id: string | undefined): BlobcacheMetrics {
    const blobs = this.#instances.blobs(id)
    if (id !== undefined && blobs.length === 0) throw fault('INSTANCE_UNKNOWN', `no image is bound as ${id}`)
    return blobcacheMetrics(this.#options.cacheDirectory, blobs, this.#cache.counters)
  }
}
