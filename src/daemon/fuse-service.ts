/**
 * Images in one FUSE mount, each below a path of its own: mounted, replaced and unmounted through the API, and handed to
 * a successor with the descriptor of the mount.
 */
import { closeSync } from 'node:fs'
import { posix } from 'node:path'
import type { MountCommand } from '../client/api.js'
import { asFault, fault } from '../common/fault.js'
import type { KeptDescriptor } from '../cache/driver.js'
import { openFuseServer } from '../fuse/fuse-server.js'
import type { FailoverPolicy, FuseServer, FuseServerOptions, ServedImage } from '../fuse/server.js'
import { type MountRecord, type ServiceState, StateDirectory } from './fuse-state.js'
import { MountedImage, openMountedImage } from './mounted-image.js'
import type { ServiceContext } from './kernel-service.js'
import type { Settings } from './runtime-settings.js'

export interface FuseServiceOptions {
  /** An existing directory. */
  readonly mountpoint: string
  readonly workers?: number
  readonly failover: FailoverPolicy
  /** Where the state for a successor is kept; undefined keeps none. */
  readonly stateDirectory?: string
}

/** The name of the descriptor that a keeper holds. */
export const FUSE_SESSION = 'fuse.session'

export class FuseService {
  readonly mountpoint: string
  readonly #options: FuseServiceOptions
  readonly #context: ServiceContext
  readonly #mounts = new Map<string, MountedImage>()
  readonly #stateDirectory: StateDirectory | undefined
  #server: FuseServer | undefined
  #running = false
  /** Changes are made one after the other. */
  #last: Promise<unknown> = Promise.resolve()
  #ended: () => void = () => undefined
  /** Resolves when somebody else unmounted it. */
  readonly ended: Promise<void>

  constructor(options: FuseServiceOptions, context: ServiceContext) {
    this.#options = options
    this.#context = context
    this.mountpoint = options.mountpoint
    this.ended = new Promise(resolve => (this.#ended = resolve))
    this.#stateDirectory =
      options.stateDirectory === undefined ? undefined : new StateDirectory(options.stateDirectory)
  }

  /** Whether the state of a predecessor can be read. @throws STATE_INVALID */
  static checkKept({ stateDirectory }: FuseServiceOptions): void {
    if (stateDirectory !== undefined) new StateDirectory(stateDirectory).read()
  }

  /** The FUSE mount; undefined before it is made. */
  get server(): FuseServer | undefined {
    return this.#server
  }

  /** What is mounted, by path. */
  get mounts(): ReadonlyMap<string, MountedImage> {
    return this.#mounts
  }

  /** Takes over from a predecessor whose descriptor was kept. @returns false when there is none @throws STATE_INVALID */
  async restoreKept(): Promise<boolean> {
    const sessionFd = this.#context.kept.get(FUSE_SESSION)
    if (sessionFd === undefined) return false
    this.#context.kept.delete(FUSE_SESSION)
    if (!this.#stateDirectory)
      throw fault('STATE_INVALID', 'a FUSE mount of a predecessor was handed down, but there is no --run-dir')
    await this.#restore(this.#stateDirectory.read(), sessionFd)
    return true
  }

  /**
   * Takes over a mount that came through a supervisor; the descriptor is the service's from here on.
   * @throws DAEMON_STATE when there is a mount of its own
   */
  async takeOver(state: ServiceState, sessionFd: number): Promise<void> {
    if (this.#server) {
      closeSync(sessionFd)
      throw fault('DAEMON_STATE', 'the daemon has a FUSE mount of its own: it cannot take over another')
    }
    // That one has answered all that it took: a journal that lies here is of another mount.
    this.#stateDirectory?.remove()
    await this.#restore(state, sessionFd)
  }

  /** Every image gets its old place. One that cannot be opened leaves the others alone. */
  #restore(state: ServiceState, sessionFd: number): Promise<void> {
    return this.#inTurn(async () => {
      const { logger } = this.#context
      await this.#openServer({ predecessor: { state: state.server, sessionFd } })
      for (const record of state.mounts) {
        try {
          await this.#show(record)
        } catch (err) {
          logger.error(
            { err: asFault(err), path: record.path },
            'a mount of the predecessor cannot be restored: its reads fail until it is mounted anew',
          )
        }
      }
      this.#saveServer()
      logger.info({ mounts: this.#mounts.size }, 'the mount of the predecessor is taken over')
    })
  }

  /** Makes the FUSE mount, unless it is there. @throws FUSE_UNAVAILABLE, MOUNTPOINT_INVALID, MOUNTPOINT_IN_USE */
  open(): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.#server) await this.#openServer({})
    })
  }

  /** Begins to serve: what is mounted, and what will be. */
  async start(): Promise<void> {
    this.#running = true
    await this.#server?.start()
  }

  /** @throws INSTANCE_EXISTS, CONFIG_INVALID, UNIMPLEMENTED, FILE_MISSING, RAFS_*, CACHE_*, and as `open` */
  mount(path: string, command: MountCommand): Promise<void> {
    const record = { path: checkPath(path), command: checkCommand(command), mountedMs: Date.now() }
    return this.#inTurn(async () => {
      if (this.#mounts.has(record.path)) {
        const where = JSON.stringify(record.path)
        throw fault('INSTANCE_EXISTS', `object or filesystem already exists: ${where} is mounted`)
      }
      await this.#show(record)
      this.#saveServer()
      this.#context.logger.info({ path: record.path, source: command.source }, 'image mounted')
    })
  }

  /**
   * Puts another bootstrap and backend in the place of a mount's. Inodes of the old one are stale from then on.
   * @throws INSTANCE_UNKNOWN, UNIMPLEMENTED (`cached` mode), IMAGE_MISMATCH (another number of blobs), and as `mount`
   */
  remount(path: string, command: MountCommand): Promise<void> {
    const record = { path: checkPath(path), command: checkCommand(command), mountedMs: Date.now() }
    return this.#inTurn(async () => {
      const before = this.#find(record.path)
      if (before.config.rafs.mode === 'cached')
        throw fault('UNIMPLEMENTED', `${record.path} is mounted in cached mode: unmount and mount it again`)
      await before.stopPrefetch()
      const after = await openMountedImage(record, this.#context)
      try {
        if (after.blobs.length !== before.blobs.length) {
          throw fault(
            'IMAGE_MISMATCH',
            `the new image has ${after.blobs.length} blobs, not ${before.blobs.length}: unmount and mount it`,
          )
        }
        await this.#replace(before, after)
      } catch (err) {
        await after.close()
        throw err
      }
      await before.close()
      after.startPrefetch()
      this.#context.logger.info({ path: record.path, source: command.source }, 'image mounted anew')
    })
  }

  /** @throws INSTANCE_UNKNOWN, INSTANCE_BUSY */
  umount(path: string): Promise<void> {
    const key = checkPath(path)
    return this.#inTurn(async () => {
      const mounted = this.#find(key)
      await this.#server?.hide(key)
      this.#mounts.delete(key)
      this.#saveServer()
      this.#stateDirectory?.removeMount(key)
      await mounted.close()
      this.#context.logger.info({ path: key }, 'image unmounted')
    })
  }

  /** What a mount's backend goes by from now on. @throws INSTANCE_UNKNOWN, CREDENTIALS_INVALID */
  putSettings(path: string, settings: Settings): void {
    const mounted = this.find(path)
    mounted.putSettings(settings)
    this.#stateDirectory?.putMount(mounted.record)
  }

  /** @throws INSTANCE_UNKNOWN */
  find(path: string): MountedImage {
    return this.#find(checkPath(path))
  }

  descriptors(): KeptDescriptor[] {
    return this.#server?.descriptors() ?? []
  }

  /** What a successor needs beside the descriptor; undefined while nothing is mounted. */
  state(): ServiceState | undefined {
    const mounts = [...this.#mounts.values()].map(mounted => mounted.record)
    return this.#server && { server: this.#server.state(), mounts }
  }

  /** Stops serving. With `unmount` nothing is left; otherwise the mount is whoever's who holds its descriptor. */
  async close({ unmount }: { unmount: boolean }): Promise<void> {
    await this.#inTurn(async () => {
      const server = this.#server
      this.#server = undefined
      if (unmount) await server?.unmount()
      await server?.stop()
      for (const mounted of this.#mounts.values()) {
        if (unmount) await mounted.close()
        else await mounted.leave()
      }
      this.#mounts.clear()
      if (unmount) this.#stateDirectory?.remove()
    })
  }

  async #openServer(options: Pick<FuseServerOptions, 'predecessor'>): Promise<void> {
    const { mountpoint, workers, failover } = this.#options
    const { logger } = this.#context
    const server = await openFuseServer({
      mountpoint,
      failover,
      logger,
      ...(workers === undefined ? {} : { workers }),
      ...(this.#stateDirectory && { journalPath: this.#stateDirectory.journalPath }),
      ...options,
    })
    this.#server = server
    if (!options.predecessor) this.#stateDirectory?.reset()
    void server.ended.then(() => this.#lost(server))
    if (this.#running) await server.start()
  }

  /** Somebody unmounted it: nothing can be read any more. */
  #lost(server: FuseServer): void {
    if (this.#server !== server) return
    this.#context.logger.warn({ mountpoint: this.mountpoint }, 'the FUSE mount is gone')
    this.close({ unmount: true }).then(this.#ended, (err: unknown) => {
      this.#context.logger.error({ err: asFault(err) }, 'what is left of the FUSE mount cannot be closed')
      this.#ended()
    })
  }

  async #show(record: MountRecord): Promise<void> {
    const mounted = await openMountedImage(record, this.#context)
    try {
      if (!this.#server) await this.#openServer({})
      // Before it is shown: who may see it must find it after a restart.
      this.#stateDirectory?.putMount(mounted.record)
      await this.#server?.show(served(mounted))
    } catch (err) {
      this.#stateDirectory?.removeMount(record.path)
      await mounted.close()
      throw err
    }
    this.#mounts.set(record.path, mounted)
    mounted.startPrefetch()
  }

  async #replace(before: MountedImage, after: MountedImage): Promise<void> {
    await this.#server?.hide(before.record.path)
    try {
      await this.#server?.show(served(after))
    } catch (err) {
      await this.#server?.show(served(before))
      throw err
    }
    this.#mounts.set(after.record.path, after)
    this.#stateDirectory?.putMount(after.record)
    this.#saveServer()
  }

  #saveServer(): void {
    if (this.#server) this.#stateDirectory?.putServer(this.#server.state())
  }

  #find(path: string): MountedImage {
    const mounted = this.#mounts.get(path)
    if (mounted) return mounted
    throw fault(
      'INSTANCE_UNKNOWN',
      `object or filesystem doesn't exist: nothing is mounted on ${JSON.stringify(path)}`,
    )
  }

  async #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#last.then(task, task)
    this.#last = run.catch(() => undefined)
    return run
  }
}

function served({ record, bootstrapFd, blobs, accounting }: MountedImage): ServedImage {
  return { path: record.path, bootstrapFd, blobs, accounting }
}

/** @throws CONFIG_INVALID */
function checkPath(path: string): string {
  if (!path.startsWith('/') || path.includes('\0'))
    throw fault('CONFIG_INVALID', `the mountpoint ${JSON.stringify(path)} does not begin with "/"`)
  const clean = posix.normalize(path)
  return clean.length > 1 && clean.endsWith('/') ? clean.slice(0, -1) : clean
}

/** @throws UNIMPLEMENTED, CONFIG_INVALID */
function checkCommand(command: MountCommand): MountCommand {
  const { fs_type: type, prefetch_files: files } = command
  if (['passthrough', 'passthroughfs', 'passthrough_fs'].includes(type))
    throw fault('UNIMPLEMENTED', 'directories are not passed through in this release: fs_type is rafs')
  if (type !== 'rafs')
    throw fault('CONFIG_INVALID', `unknown fs_type ${JSON.stringify(type)}: rafs is wanted`)
  const relative = files?.find(file => !file.startsWith('/'))
  if (relative !== undefined)
    throw fault('CONFIG_INVALID', `prefetch_files: ${JSON.stringify(relative)} does not begin with "/"`)
  return command
}
