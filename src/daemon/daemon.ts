/**
 * nydusd: one process that serves images through a kernel path, through one FUSE mount, or both over the same caches.
 *
 * Invariants: nobody here reads through a mount that this process serves; starting asks no network; the API answers
 * before anything slow; stopping leaves unanswered events to whoever holds the descriptors.
 */
import { closeSync } from 'node:fs'
import type { Server } from 'node:http'
import type {
  BlobCacheEntry,
  DaemonEvents,
  DaemonInfo,
  DescriptorInfo,
  InstanceInfo,
  MountCommand,
  MountInfo,
} from '../client/api.js'
import { fault, isFault } from '../common/fault.js'
import { isStaleSocket } from '../common/http-server.js'
import { LOG_LEVELS, type Logger, pinoLevel } from '../common/log.js'
import { readVersion } from '../common/version.js'
import { receiveState, sendState } from '../native/hand-over.js'
import { findFuseMount } from '../native/mount-table.js'
import { Caches } from './caches.js'
import { redactConfig } from './config-echo.js'
import { FUSE_SESSION, FuseService, type FuseServiceOptions } from './fuse-service.js'
import { encodeServiceState, parseServiceState } from './fuse-state.js'
import { KernelService, type KernelServiceOptions, type ServiceContext } from './kernel-service.js'
import type { Actions } from './routes.js'
import { EventRing } from './event-ring.js'
import { checkSettings, listSettings } from './runtime-settings.js'
import { serveApi } from './server.js'
import { Statistics } from './statistics.js'
import { StateMachine } from './state.js'

export interface DaemonOptions {
  id: string | null
  supervisor: string | null
  /** Undefined: images are served by FUSE only. */
  kernel?: KernelServiceOptions
  /** Undefined: images are served through the kernel only. */
  fuse?: FuseServiceOptions
  /** The text of the configuration for mounts that bring none. */
  config?: string
  /** What is mounted in the FUSE mount from the start. */
  firstMount?: { readonly path: string; readonly command: MountCommand }
  /** Undefined: there is no API. */
  apiSocket?: string
  /** Stay in INIT and serve only after /api/v1/daemon/start. */
  passive: boolean
  validate: boolean
  /** Descriptors handed down by a supervisor, by name. */
  kept: Map<string, number>
  logger: Logger
}

interface Services {
  caches: Caches
  kernel?: KernelService
  fuse: FuseService | undefined
  passedOver: readonly string[]
}

const VERSION = readVersion()
/** For the supervisor that takes or gives our state. */
const HAND_OVER_TIMEOUT_MS = 30_000

export class Daemon implements Actions {
  readonly statistics: Statistics
  readonly #options: DaemonOptions
  readonly #logger: Logger
  readonly #state = new StateMachine()
  readonly #events = new EventRing()
  readonly #caches: Caches
  readonly #kernel: KernelService | undefined
  readonly #fuse: FuseService | undefined
  /** Why none of the drivers that come first was taken. */
  readonly #passedOver: readonly string[]
  readonly #ended: Promise<void>
  #end: (stopped: Promise<void>) => void = () => undefined
  #stopping = false
  #server: Server | undefined

  private constructor(options: DaemonOptions, services: Services) {
    this.#options = options
    this.#logger = options.logger
    this.#caches = services.caches
    this.#kernel = services.kernel
    this.#fuse = services.fuse
    this.#passedOver = services.passedOver
    this.statistics = new Statistics(services.kernel, services.fuse)
    this.#ended = new Promise(resolve => (this.#end = resolve))
    // A daemon of nothing but this mount has nothing left to do.
    if (this.#fuse && !this.#kernel) void this.#fuse.ended.then(() => this.stop({ unmount: true }))
  }

  /**
   * Whether what a predecessor left can be taken over, before anything is taken.
   * @throws STATE_INVALID what another version wrote, or what is of a service that this daemon has not
   */
  static checkInherited({ kept, fuse, kernel }: DaemonOptions): void {
    const kernelName = ['fanotify.group', 'fscache.control'].find(name => kept.has(name))
    if (kernelName !== undefined && !kernel)
      throw fault('STATE_INVALID', `${kernelName} was handed down to a daemon that serves by FUSE only`)
    if (!kept.has(FUSE_SESSION)) return
    if (!fuse) throw fault('STATE_INVALID', 'a FUSE mount was handed down, but there is no --mountpoint')
    FuseService.checkKept(fuse)
  }

  /** @throws DRIVER_UNSUPPORTED, STORE_LOCKED, CACHE_IO */
  static async open(options: DaemonOptions): Promise<Daemon> {
    const { kept, logger, validate } = options
    if (!validate) logger.warn('chunk digests are not checked: wrong bytes will not be noticed')
    const caches = new Caches(logger)
    const context: ServiceContext = { caches, kept, validate, logger }
    const fuse = options.fuse && new FuseService(options.fuse, context)
    const chosen = options.kernel
      ? await KernelService.open(options.kernel, context, fuse !== undefined)
      : { passedOver: [] }
    return new Daemon(options, { caches, fuse, ...chosen })
  }

  /** Answers the API, and serves unless it is to wait for its start, until it is stopped. @throws ADDRESS_IN_USE */
  async run(onReady: () => Promise<void>): Promise<void> {
    const { apiSocket } = this.#options
    const crashed = !this.#kernel && this.#fuse !== undefined && (await this.#predecessorCrashed())
    const inherited = crashed || this.#options.kept.has(FUSE_SESSION)
    if (apiSocket !== undefined) this.#server = await serveApi(apiSocket, this, this.#logger)
    try {
      const restored = (await this.#fuse?.restoreKept()) ?? false
      if (crashed && !restored)
        this.#logger.warn(
          'a predecessor left its mount behind: waiting in INIT for /api/v1/daemon/fuse/takeover',
        )
      else if (!this.#options.passive) await this.start()
      await onReady()
    } catch (err) {
      // Containers stand on the mount of a predecessor: another successor may still come to serve it.
      await this.#stop({ unmount: !inherited })
      throw err
    }
    await this.#ended
  }

  /** Stops serving, then ends. Without `unmount` mounts and descriptors are the supervisor's. */
  stop(how: { unmount: boolean }): void {
    if (this.#stopping) return
    this.#stopping = true
    this.#end(this.#stop(how))
  }

  async #stop(how: { unmount: boolean }): Promise<void> {
    const [instances, mounts] = [this.#kernel?.instances.size, this.#fuse?.mounts.size]
    this.#logger.info({ instances, mounts, ...how }, 'stopping')
    await this.#kernel?.driver.stop()
    this.#server?.close()
    this.#server?.closeAllConnections()
    await this.#fuse?.close(how)
    await this.#kernel?.instances.close()
    await this.#caches.closeAll()
  }

  /** Upstream's sign of a crash: nobody answers on the API socket, and the mount is still there. */
  async #predecessorCrashed(): Promise<boolean> {
    const { apiSocket, kept } = this.#options
    if (apiSocket === undefined || kept.has(FUSE_SESSION) || !this.#fuse) return false
    return findFuseMount(this.#fuse.mountpoint) !== undefined && (await isStaleSocket(apiSocket))
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
      backend_collection: this.#backendCollection(),
      driver: this.#driverName,
      pid: process.pid,
      ...(this.#passedOver.length > 0 && { passed_over: this.#passedOver }),
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
    if (this.#state.state === 'INIT') await this.#state.apply('mount', () => this.#makeMount())
    await this.#state.apply('start', async () => {
      await this.#kernel?.driver.start()
      await this.#fuse?.start()
    })
    for (const [name, fd] of this.#options.kept) {
      this.#logger.warn({ name, fd }, 'a kept descriptor belongs to no bound image')
    }
  }

  /** Beside a kernel path the FUSE mount is made with the first image in it. */
  async #makeMount(): Promise<void> {
    const { firstMount } = this.#options
    if (!this.#fuse || this.#fuse.server) return
    if (firstMount) await this.#fuse.mount(firstMount.path, firstMount.command)
    else if (!this.#kernel) await this.#fuse.open()
  }

  async exit(): Promise<void> {
    // Answer first: the process is gone right after.
    setImmediate(() => this.stop({ unmount: false }))
    return Promise.resolve()
  }

  async sendDescriptor(): Promise<void> {
    const state = this.#needFuse().state()
    const session = this.#fuse?.descriptors().find(({ name }) => name === FUSE_SESSION)
    if (!state || !session)
      throw fault('DAEMON_UNAVAILABLE', 'nothing is mounted yet: there is no descriptor to hand over')
    await sendState(this.#needSupervisor(), encodeServiceState(state), session.fd, {
      timeoutMs: HAND_OVER_TIMEOUT_MS,
    })
    this.#logger.info({ mounts: state.mounts.length }, 'state and descriptor are with the supervisor')
  }

  async takeOver(): Promise<void> {
    const fuse = this.#needFuse()
    const supervisor = this.#needSupervisor()
    await this.#state.apply('takeover', async () => {
      const { bytes, fd } = await receiveState(supervisor, { timeoutMs: HAND_OVER_TIMEOUT_MS })
      try {
        await fuse.takeOver(parseServiceState(bytes), fd)
      } catch (err) {
        if (isFault(err, 'STATE_INVALID')) closeSync(fd)
        throw err
      }
    })
  }

  /** Also what was handed down and waits for its image: while we do not serve, somebody else may have to. */
  descriptors(): DescriptorInfo[] {
    const used = [...(this.#kernel?.driver.descriptors() ?? []), ...(this.#fuse?.descriptors() ?? [])]
    const waiting = this.#state.state === 'RUNNING' ? [] : [...this.#options.kept]
    return [...used.map(({ name, fd }) => ({ name, fd })), ...waiting.map(([name, fd]) => ({ name, fd }))]
  }

  async mountImage(path: string, command: MountCommand): Promise<void> {
    await this.#needFuse().mount(path, command)
  }

  async remountImage(path: string, command: MountCommand): Promise<void> {
    await this.#needFuse().remount(path, command)
  }

  async unmountImage(path: string): Promise<void> {
    await this.#needFuse().umount(path)
  }

  ownConfig(): string {
    const { config } = this.#options
    if (config !== undefined) return config
    throw fault(
      'CONFIG_MISSING',
      'the mount brings no configuration, and this daemon was started without --config',
    )
  }

  async bind(entry: BlobCacheEntry): Promise<void> {
    await this.#needKernel().instances.bind(entry)
  }

  async unbind(domainId: string, id: string | undefined): Promise<void> {
    const { instances } = this.#needKernel()
    await (id === undefined ? instances.unbindDomain(domainId) : instances.unbind(domainId, id))
  }

  instances(domainId: string | undefined, id: string | undefined): InstanceInfo[] {
    return this.#needKernel().instances.list(domainId, id)
  }

  mounted(domainId: string, id: string): void {
    this.#needKernel().instances.mounted(domainId, id)
  }

  events(): DaemonEvents {
    return this.#events.list()
  }

  settings(id: string | undefined): Record<string, string> {
    const mounts = this.#fuse?.mounts
    return id === undefined ? listSettings(mounts ?? []) : { ...mounts?.get(id)?.settings }
  }

  putSettings(id: string | undefined, settings: Record<string, string>): void {
    this.#needFuse().putSettings(id ?? '/', checkSettings(settings))
  }

  async cullBlob(blobId: string): Promise<void> {
    const { driver, cache } = this.#needKernel()
    driver.cull?.(blobId)
    await cache.cull(blobId)
  }

  get #driverName(): string {
    return this.#kernel?.driver.name ?? 'fuse'
  }

  #backendCollection(): Record<string, MountInfo> {
    const mounts = [...(this.#fuse?.mounts ?? [])]
    return Object.fromEntries(
      mounts.map(([path, { mountedAt, config }]) => [
        path,
        {
          backend_type: 'Rafs',
          mountpoint: path,
          mounted_time: timeText(mountedAt),
          config: redactConfig(config),
        },
      ]),
    )
  }

  #needKernel(): KernelService {
    if (this.#kernel) return this.#kernel
    throw fault('UNIMPLEMENTED', 'this daemon serves by FUSE only: mount the image with POST /api/v1/mount')
  }

  #needFuse(): FuseService {
    if (this.#fuse) return this.#fuse
    throw noFileSystem()
  }

  #needSupervisor(): string {
    const { supervisor } = this.#options
    if (supervisor !== null) return supervisor
    throw fault('REQUEST_INVALID', 'this daemon has no supervisor: start it with --id and --supervisor')
  }
}

/** As upstream's nydusctl parses it: `2026-01-31 23:59:59.123 +00:00:00`. */
function timeText(date: Date): string {
  return date.toISOString().replace('T', ' ').replace('Z', ' +00:00:00')
}

function noFileSystem(): Error {
  return fault(
    'UNIMPLEMENTED',
    'a shared daemon of the kernel path mounts nothing itself: bind the image with PUT /api/v2/blobs and mount EROFS, or ' +
      'start it with --mountpoint',
  )
}
