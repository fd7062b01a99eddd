/** The daemons behind the images of a node: the shared one, or one for each image that has one of its own. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from '../common/log.js'
import type { Store } from '../common/store.js'
import type { FuseTemplate } from './fuse-config.js'
import { detachFuse } from './fuse-mount.js'
import { DescriptorKeeper } from './descriptor-keeper.js'
import type { ServingDaemon } from './fuse-path.js'
import { fullName, Holders, parseName } from './holders.js'
import type { DescriptorPlace } from './image-mounts.js'
import type { ServiceManager } from './service-manager.js'
import { type DaemonSetup, type KnownImage, type RecoverPolicy, WatchedDaemon } from './watched-daemon.js'

export interface DaemonsOptions {
  readonly store: Store
  readonly cacheDirectory: string
  readonly logDirectory: string
  /** On /run: what must not outlive the boot. */
  readonly runDirectory: string
  /** `kernel`, `auto`, `fscache` or `fanotify`, as nydusd's --driver; `fuse`: nydusd's other service. */
  readonly driver: string
  /** Absent: images that no kernel path can serve are refused. */
  readonly fuse?: FuseOptions
  /** `nydusd` to run; ours when empty. */
  readonly nydusdPath: string
  readonly logLevel: string
  /** False switches chunk digests off; for tests of the checks themselves. */
  readonly validate: boolean
  /** Has a descriptor store. */
  readonly manager?: ServiceManager
  readonly logger: Logger
}

export interface FuseOptions {
  /** Where the shared daemon shows images, each below its id. */
  readonly mountpoint: string
  readonly template: FuseTemplate
  /** Threads of a daemon that take requests; 0: its own choice. */
  readonly threads: number
  /** nydusd's --failover-policy. */
  readonly failoverPolicy: string
  /** What follows the death of a daemon that serves by FUSE alone. */
  readonly recoverPolicy: RecoverPolicy
  /** True: with driver `fuse` a daemon for each image, mounted at the image's own directory. */
  readonly dedicated: boolean
  /** Has a directory for each such daemon, with its socket. */
  readonly socketDirectory: string
}

/** `DaemonOwner`, for the daemon of a key. */
export interface DaemonsOwner {
  readonly knownImages: (key: string) => Promise<KnownImage[]>
  readonly lost: (key: string) => void
}

/** Key of the daemon that all images share. */
export const SHARED = 'shared'

export class Daemons {
  readonly holders: Holders
  readonly #options: DaemonsOptions
  readonly #owner: DaemonsOwner
  readonly #daemons = new Map<string, WatchedDaemon>()
  /** Of daemons to come; an upgrade changes it. */
  nydusdPath: string

  constructor(options: DaemonsOptions, owner: DaemonsOwner) {
    this.#options = options
    this.nydusdPath = options.nydusdPath
    this.#owner = owner
    this.holders = new Holders(options)
  }

  get hasShared(): boolean {
    return !(this.#options.driver === 'fuse' && this.#options.fuse?.dedicated === true)
  }

  get shared(): WatchedDaemon {
    return this.get(SHARED, this.#options.fuse?.mountpoint)
  }

  /** Those that are known, by key: the shared one first. */
  list(): [string, WatchedDaemon][] {
    return [...this.#daemons].sort(([a], [b]) => Number(b === SHARED) - Number(a === SHARED))
  }

  /** @param mountpoint of its FUSE mount; undefined where it makes none */
  get(key: string, mountpoint: string | undefined): WatchedDaemon {
    let daemon = this.#daemons.get(key)
    if (!daemon) {
      const setup = key === SHARED ? this.#sharedSetup() : this.#dedicatedSetup(key, mountpoint)
      daemon = new WatchedDaemon(setup, new DescriptorKeeper(key, this.holders), {
        knownImages: () => this.#owner.knownImages(key),
        lost: () => this.#owner.lost(key),
      })
      this.#daemons.set(key, daemon)
    }
    return daemon
  }

  /** The daemon of an image that FUSE serves. */
  serving(key: string, mountpoint: string): ServingDaemon {
    const daemon = this.get(key, mountpoint)
    const cacheDirectory = this.#cacheDirectory(key)
    if (key === SHARED) return { daemon, cacheDirectory }
    return { daemon, cacheDirectory, end: discard => this.end(key, mountpoint, discard) }
  }

  /**
   * Ends a daemon and takes its mount away.
   * @param discard the cache that it has to itself goes too
   */
  async end(key: string, mountpoint: string | undefined, discard: boolean): Promise<void> {
    await this.get(key, mountpoint).stop()
    await this.forget(key, mountpoint)
    // Files that the kernel still has mounted live on without their names.
    if (discard && key !== SHARED) rmSync(this.#cacheDirectory(key), { recursive: true, force: true })
  }

  /** Takes the mount of a daemon away that runs no more. */
  async forget(key: string, mountpoint: string | undefined): Promise<void> {
    const daemon = this.get(key, mountpoint)
    if (mountpoint !== undefined) await detachFuse(mountpoint)
    await daemon.forget()
    await daemon.close()
    this.#daemons.delete(key)
    if (key === SHARED) return
    for (const directory of [this.#socketDirectory(key), this.#runDirectory(key)])
      rmSync(directory, { recursive: true, force: true })
  }

  /** Every descriptor that a daemon has or somebody keeps for it. */
  async descriptors(): Promise<DescriptorPlace[]> {
    const found = new Map<string, DescriptorPlace>()
    for (const [full, holders] of await this.holders.list()) {
      const [daemon, name = ''] = parseName(full)
      found.set(full, { daemon, name, holders })
    }
    for (const [daemon, watched] of this.#daemons) {
      for (const name of await watched.descriptorNames()) {
        const full = fullName(daemon, name)
        found.set(full, { daemon, name, holders: ['daemon', ...(found.get(full)?.holders ?? [])] })
      }
    }
    return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, place]) => place)
  }

  /** Lets go of all of them: they live on. With `end` the holder that holds nothing ends. */
  async close({ end }: { end: boolean }): Promise<void> {
    for (const daemon of this.#daemons.values()) await daemon.close()
    await this.holders.close({ end })
  }

  /** A cache directory belongs to one process. */
  #cacheDirectory(key: string): string {
    const { cacheDirectory } = this.#options
    return key === SHARED ? cacheDirectory : join(cacheDirectory, key)
  }

  #runDirectory(key: string): string {
    return join(this.#options.runDirectory, key)
  }

  #socketDirectory(key: string): string {
    return join(this.#options.fuse?.socketDirectory ?? this.#options.runDirectory, key)
  }

  #sharedSetup(): DaemonSetup {
    const { driver, fuse, cacheDirectory, runDirectory, logDirectory } = this.#options
    const mount = fuse === undefined ? [] : ['--mountpoint', fuse.mountpoint, ...fuseArgs(fuse)]
    const run = ['--run-dir', runDirectory]
    const place = { apiSocket: join(runDirectory, 'api.sock'), logPath: join(logDirectory, 'nydusd.log') }
    const kernelArgs = (chosen: string): string[] => [
      // The fall to FUSE is no choice: what has come to the kernel meanwhile may be taken.
      ...['--fscache', cacheDirectory, '--driver', chosen === '' || chosen === 'fuse' ? driver : chosen],
    ]
    return {
      ...this.#commonSetup(),
      ...place,
      storeKey: 'supervisor/daemon',
      service: driver === 'fuse' ? 'fuse' : 'singleton',
      args: chosen => [
        ...(driver === 'fuse' ? [] : kernelArgs(chosen)),
        ...mount,
        ...run,
        ...this.#commonArgs(),
      ],
      directories: [cacheDirectory, runDirectory],
      fuseMountpoint: fuse?.mountpoint,
      recoverPolicy: driver === 'fuse' && fuse !== undefined ? fuse.recoverPolicy : 'failover',
      waits: false,
    }
  }

  #dedicatedSetup(key: string, mountpoint = ''): DaemonSetup {
    const { fuse, logDirectory } = this.#options
    const mount = ['--mountpoint', mountpoint, ...(fuse === undefined ? [] : fuseArgs(fuse))]
    const run = this.#runDirectory(key)
    return {
      ...this.#commonSetup(),
      storeKey: `supervisor/daemon/${key}`,
      apiSocket: join(this.#socketDirectory(key), 'api.sock'),
      logPath: join(logDirectory, key, 'nydusd.log'),
      service: 'fuse',
      args: () => [...mount, '--run-dir', run, ...this.#commonArgs()],
      directories: [this.#cacheDirectory(key), run],
      fuseMountpoint: mountpoint,
      recoverPolicy: fuse?.recoverPolicy ?? 'failover',
      waits: true,
    }
  }

  #commonSetup(): Pick<DaemonSetup, 'store' | 'nydusdPath' | 'logger'> {
    const { store, logger } = this.#options
    return { store, nydusdPath: this.nydusdPath, logger }
  }

  #commonArgs(): string[] {
    const { logLevel, validate } = this.#options
    return ['--log-level', logLevel, ...(validate ? [] : ['--no-validate'])]
  }
}

function fuseArgs({ threads, failoverPolicy }: FuseOptions): string[] {
  return ['--failover-policy', failoverPolicy, ...(threads === 0 ? [] : ['--thread-num', String(threads)])]
}
