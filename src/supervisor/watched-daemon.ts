/**
 * A daemon behind images: started or adopted, watched, and replaced by a successor when it dies. The successor gets the
 * descriptors that the keeper holds and the images that are known, and only then begins to serve.
 */
import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { DaemonInfo } from '../client/api.js'
import { DaemonClient } from '../client/daemon-client.js'
import { asFault, fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { Store } from '../common/store.js'
import { findFuseMount } from '../native/mount-table.js'
import { identify, type ProcessIdentity, processEnded, startDaemon } from './daemon-process.js'
import { DescriptorKeeper } from './descriptor-keeper.js'
import { detachFuse } from './fuse-mount.js'

export interface DaemonSetup {
  readonly store: Store
  /** Of its record in the store. */
  readonly storeKey: string
  /** `nydusd` to run; ours when empty. */
  readonly nydusdPath: string
  readonly apiSocket: string
  readonly logPath: string
  /** `fuse` or `singleton`, nydusd's service. */
  readonly service: string
  /** What follows the service; `driver` is the predecessor's, empty for the first. */
  readonly args: (driver: string) => string[]
  /** Made where they are missing. */
  readonly directories: readonly string[]
  /** Where its FUSE mount is, where it makes one. */
  readonly fuseMountpoint: string | undefined
  /** True: it serves only after `start` of its API, even where it has no image to know before. */
  readonly waits: boolean
  readonly logger: Logger
}

/** An image that a new daemon must know before it serves. */
export interface KnownImage {
  readonly imageRef: string
  /** Makes it known to a daemon that does not serve yet. */
  restore(client: DaemonClient): Promise<void>
  /** Told once the daemon serves. */
  serving(client: DaemonClient): Promise<void>
}

interface DaemonRecord extends ProcessIdentity {
  apiSocket: string
  service: string
}

/** A daemon that dies is replaced at once the first time, then after doubling pauses up to this. */
const RESTART_PAUSE_MAX_MS = 30_000
/** A daemon that lived this long starts its count of deaths afresh. */
const STABLE_MS = 60_000

export class WatchedDaemon {
  readonly #setup: DaemonSetup
  readonly #logger: Logger
  /** What is mounted or being mounted at the moment of the call. */
  readonly #knownImages: () => Promise<KnownImage[]>
  readonly #keeper = new DescriptorKeeper()
  readonly #closing = new AbortController()
  #client: DaemonClient | undefined
  #driver = ''
  #passedOver: readonly string[] = []
  #service = ''
  #process: ProcessIdentity | undefined
  #deaths = 0
  /** Settled when a daemon serves; pending while a successor is brought up. */
  #serving: Promise<void> = Promise.resolve()

  constructor(setup: DaemonSetup, knownImages: () => Promise<KnownImage[]>) {
    this.#setup = setup
    this.#logger = setup.logger
    this.#knownImages = knownImages
  }

  /** `fscache`, `fanotify` or `fuse`; empty before the first daemon runs. */
  get driver(): string {
    return this.#driver
  }

  /** Why the daemon took none of the drivers that it would rather have: a sentence each. */
  get passedOver(): readonly string[] {
    return this.#passedOver
  }

  /** What is known of it without asking; pid 0 while none runs. */
  get status(): { pid: number; apiSocket: string; driver: string; mountpoint: string | undefined } {
    const { apiSocket, fuseMountpoint: mountpoint } = this.#setup
    const running = this.#process !== undefined && isRunning(this.#process)
    return { pid: running ? (this.#process?.pid ?? 0) : 0, apiSocket, driver: this.#driver, mountpoint }
  }

  /** False for one of an earlier run, which was configured differently. */
  get isAsConfigured(): boolean {
    return this.#service === this.#setup.service
  }

  /**
   * The client of the daemon that serves now; waits for a successor that is under way.
   * @throws DAEMON_UNAVAILABLE when there is none
   */
  async client(): Promise<DaemonClient> {
    await this.#serving
    if (!this.#client) throw fault('DAEMON_UNAVAILABLE', 'there is no daemon: see the log of the snapshotter')
    return this.#client
  }

  /** Takes duplicates of all descriptors that the daemon has now: before anything is mounted on them. */
  async keepDescriptors(): Promise<void> {
    const client = await this.client()
    if (this.#process) this.#keeper.keep(this.#process.pid, await client.descriptors())
  }

  /** Runs a call of the API; when the daemon dies under it, once more with its successor. */
  async call<T>(run: (client: DaemonClient) => Promise<T>): Promise<T> {
    const before = this.#process
    try {
      return await run(await this.client())
    } catch (err) {
      const died = asFault(err).code === 'DAEMON_UNAVAILABLE' && before !== undefined
      if (!died || identify(before.pid)?.startTicks === before.startTicks) throw err
      await this.#replaced(before)
      return run(await this.client())
    }
  }

  /** Ends the daemon itself. */
  async stop(): Promise<void> {
    const daemon = this.#process
    this.#closing.abort()
    if (!daemon) return
    try {
      await this.#client?.exit()
    } catch (err) {
      this.#logger.warn({ err: asFault(err) }, 'the daemon does not end by itself: it is killed')
      kill(daemon)
    }
    await processEnded(daemon.pid)
    await this.#setup.store.write([{ type: 'del', key: this.#setup.storeKey }])
  }

  /** Stops watching and lets go of the descriptors: a later run takes them again from the living daemon. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#serving.catch(() => undefined)
    this.#keeper.release()
    await this.#client?.close()
  }

  /** Takes a living daemon of an earlier run back. @returns false when there is none */
  async adopt(): Promise<boolean> {
    if (this.#process && isRunning(this.#process)) return true
    const record = await this.#setup.store.get<DaemonRecord>(this.#setup.storeKey)
    if (!record || !isRunning(record)) return false
    const client = new DaemonClient(record.apiSocket)
    try {
      const info = await client.info()
      if (info.state !== 'RUNNING') throw fault('DAEMON_STATE', `the daemon is ${info.state}`)
      this.#keeper.keep(record.pid, await client.descriptors())
      this.#learn(info)
    } catch (err) {
      this.#logger.error(
        { err: asFault(err), pid: record.pid },
        'a living daemon cannot be adopted: it is replaced',
      )
      kill(record)
      await processEnded(record.pid)
      await client.close()
      return false
    }
    this.#client = client
    this.#process = record
    this.#service = record.service
    this.#logger.info({ pid: record.pid, driver: this.#driver }, 'daemon adopted')
    this.#watch(record)
    return true
  }

  /** Starts the first daemon: there is nobody whose descriptors it could take. */
  async launch(): Promise<void> {
    const { fuseMountpoint } = this.#setup
    this.#keeper.release()
    this.#driver = ''
    if (fuseMountpoint !== undefined) await detachFuse(fuseMountpoint)
    await this.#launch()
  }

  /** Starts a daemon with what the keeper holds, gives it the images that are known, and lets it serve. */
  async #launch(): Promise<void> {
    const { apiSocket, logPath, directories, service, args, nydusdPath, store, storeKey } = this.#setup
    this.#prepareMountpoint()
    for (const directory of [dirname(apiSocket), dirname(logPath), ...directories])
      mkdirSync(directory, { recursive: true, mode: 0o700 })
    const images = await this.#knownImages()
    const waits = images.length > 0 || this.#setup.waits
    const daemon = await startDaemon({
      nydusdPath,
      logPath,
      kept: this.#keeper.list(),
      args: [service, ...args(this.#driver), '--apisock', apiSocket, ...(waits ? ['--upgrade'] : [])],
    })
    await store.write([
      { type: 'put', key: storeKey, value: { ...daemon, apiSocket, service } satisfies DaemonRecord },
    ])
    const client = new DaemonClient(apiSocket)
    try {
      for (const image of images) await this.#restore(client, image)
      if (images.length > 0) await client.start()
      for (const image of images) await image.serving(client)
      this.#learn(await client.info())
      this.#keeper.keep(daemon.pid, await client.descriptors())
    } catch (err) {
      await client.close()
      kill(daemon)
      await processEnded(daemon.pid)
      throw err
    }
    await this.#client?.close()
    this.#client = client
    this.#process = daemon
    this.#service = service
    this.#logger.info({ pid: daemon.pid, driver: this.#driver, images: images.length }, 'daemon runs')
    this.#watch(daemon)
  }

  #learn({ driver, passed_over }: DaemonInfo): void {
    this.#driver = driver
    this.#passedOver = passed_over ?? []
  }

  /** A FUSE session that somebody unmounted is over: the successor mounts anew. */
  #prepareMountpoint(): void {
    const { fuseMountpoint } = this.#setup
    if (fuseMountpoint === undefined || findFuseMount(fuseMountpoint)) return
    this.#keeper.drop(name => name.startsWith('fuse.'))
    mkdirSync(fuseMountpoint, { recursive: true, mode: 0o755 })
  }

  /** One image that cannot be made known must not keep the others from being served. */
  async #restore(client: DaemonClient, image: KnownImage): Promise<void> {
    try {
      await image.restore(client)
    } catch (err) {
      if (asFault(err).code === 'DAEMON_UNAVAILABLE') throw err
      this.#logger.error(
        { err: asFault(err), imageRef: image.imageRef },
        'an image cannot be served again: its reads fail until it is mounted anew',
      )
    }
  }

  #watch(daemon: ProcessIdentity): void {
    const startedMs = Date.now()
    processEnded(daemon.pid, this.#closing.signal).then(
      () => {
        if (this.#closing.signal.aborted) return
        this.#deaths = Date.now() - startedMs > STABLE_MS ? 1 : this.#deaths + 1
        this.#logger.error({ pid: daemon.pid }, 'the daemon died: its readers wait for a successor')
        this.#serving = this.#succeed()
      },
      (err: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#logger.error({ err: asFault(err) }, 'the daemon is not watched')
      },
    )
  }

  /** Brings a successor up, as often as it takes. */
  async #succeed(): Promise<void> {
    while (!this.#closing.signal.aborted) {
      if (this.#deaths > 1) {
        const pauseMs = Math.min(125 * 2 ** this.#deaths, RESTART_PAUSE_MAX_MS)
        this.#logger.warn(
          { pauseMs, deaths: this.#deaths },
          'the daemon keeps dying: waiting before the next start',
        )
        await delay(pauseMs, undefined, { signal: this.#closing.signal }).catch(() => undefined)
      }
      if (this.#closing.signal.aborted) return
      try {
        await this.#launch()
        return
      } catch (err) {
        this.#deaths++
        this.#logger.error({ err: asFault(err) }, 'a successor did not come up')
      }
    }
  }

  /** Resolves when another daemon than this dead one serves. */
  async #replaced(dead: ProcessIdentity): Promise<void> {
    while (this.#process === dead && !this.#closing.signal.aborted) {
      await this.#serving
      // Its end is seen through the event loop, maybe a little later than its socket's.
      if (this.#process === dead) await delay(10, undefined, { ref: false })
    }
  }
}

function isRunning(daemon: ProcessIdentity): boolean {
  return identify(daemon.pid)?.startTicks === daemon.startTicks
}

/** kill -9, unless the pid is somebody else's by now. */
function kill(daemon: ProcessIdentity): void {
  if (isRunning(daemon)) process.kill(daemon.pid, 'SIGKILL')
}
