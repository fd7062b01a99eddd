/**
 * A daemon behind images: started or adopted, watched, and replaced by a successor when it dies. The successor gets the
 * descriptors that the keeper holds and the images that are known, and only then begins to serve.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { DaemonInfo } from '../client/api.js'
import { DaemonClient } from '../client/daemon-client.js'
import { asFault, fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { Store } from '../common/store.js'
import { findFuseMount } from '../native/mount-table.js'
import {
  identify,
  type ProcessIdentity,
  processEnded,
  type StartedDaemon,
  startDaemon,
} from './daemon-process.js'
import type { DescriptorKeeper } from './descriptor-keeper.js'
import { DeathCount } from './death-count.js'
import { detachFuse } from './fuse-mount.js'
import { countDaemonEvent } from './metrics.js'

/**
 * `failover`: a successor goes on with what the dead daemon held; its readers wait. `restart`: a new one mounts anew, for
 * containers to come; who uses the old mount gets ENOTCONN. `none`: nothing.
 */
export type RecoverPolicy = 'failover' | 'restart' | 'none'

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
  /** What follows its death. Of a kernel path only `failover`: without a holder its readers would get zeros. */
  readonly recoverPolicy: RecoverPolicy
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

/** Who asked for the daemon. */
export interface DaemonOwner {
  /** What is mounted or being mounted at the moment of the call. */
  readonly knownImages: () => Promise<KnownImage[]>
  /** Called when a successor came up without what the kernel's mounts hang on. */
  readonly lost: () => void
}

interface DaemonRecord extends ProcessIdentity {
  apiSocket: string
  service: string
}

export interface WatchedStatus {
  readonly pid: number
  readonly apiSocket: string
  /** What was built: `Git Commit` of `nydusd --version`. */
  readonly commit: string
  readonly driver: string
  readonly mountpoint: string | undefined
  /** Since it is watched, with successors that did not come up. */
  readonly deaths: number
  /** More than 0 while a daemon that keeps dying is not started again. */
  readonly restartInMs: number
}

const AFTER_DEATH: Readonly<Record<RecoverPolicy, string>> = {
  failover: 'its readers wait for a successor',
  restart: 'its mount is lost, and another is made for containers to come',
  none: 'its mounts are lost, as daemon.recover_policy none has it',
}

/**
 * A successor of a daemon that died unseen is tried so often, then its descriptors are given up. Between two attempts are
 * doubling pauses: one whose starter was killed has the cache until it notices.
 */
const CONTINUE_ATTEMPTS = 10
const CONTINUE_PAUSE_MAX_MS = 2_000
/** A daemon that hangs is not waited for to say who it is. */
const STRAY_TIMEOUT_MS = 2_000
/** What the mounts of a kernel path hang on, and the driver that answers there. */
const DRIVER_OF: Readonly<Record<string, string>> = {
  'fanotify.group': 'fanotify',
  'fscache.control': 'fscache',
}

interface DaemonPlace {
  /** `nydusd` to run; ours when empty. */
  readonly nydusdPath: string
  readonly apiSocket: string
}

export class WatchedDaemon {
  readonly #setup: DaemonSetup
  /** What the next daemon is, and where it answers; an upgrade changes them. */
  #place: DaemonPlace
  /** Ended by an upgrade: its end is no death. */
  #retired: ProcessIdentity | undefined
  #commit = ''
  readonly #logger: Logger
  /** What is mounted or being mounted at the moment of the call. */
  readonly #knownImages: () => Promise<KnownImage[]>
  readonly #lost: () => void
  readonly #keeper: DescriptorKeeper
  readonly #closing = new AbortController()
  #client: DaemonClient | undefined
  #driver = ''
  #passedOver: readonly string[] = []
  #service = ''
  #process: ProcessIdentity | undefined
  readonly #deaths = new DeathCount()
  /** 0: the next successor is not waited with. */
  #pausedUntilMs = 0
  /** Settled when a daemon serves; pending while a successor is brought up. */
  #serving: Promise<void> = Promise.resolve()

  constructor(setup: DaemonSetup, keeper: DescriptorKeeper, { knownImages, lost }: DaemonOwner) {
    this.#setup = setup
    this.#lost = lost
    this.#keeper = keeper
    this.#place = { nydusdPath: setup.nydusdPath, apiSocket: setup.apiSocket }
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
  get status(): WatchedStatus {
    const { fuseMountpoint: mountpoint } = this.#setup
    const running = this.#process !== undefined && isRunning(this.#process)
    return {
      pid: running ? (this.#process?.pid ?? 0) : 0,
      apiSocket: this.#place.apiSocket,
      commit: this.#commit,
      driver: this.#driver,
      mountpoint,
      deaths: this.#deaths.total,
      restartInMs: Math.max(0, this.#pausedUntilMs - Date.now()),
    }
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

  /** Every holder has all descriptors that the daemon has now: before anything is mounted on them. */
  async keepDescriptors(): Promise<void> {
    const client = await this.client()
    if (this.#process) await this.#keep(this.#process.pid, client)
  }

  /** What is held keeps readers waiting, for a successor that has to come. */
  async #keep(pid: number, client: DaemonClient): Promise<void> {
    if (this.#setup.recoverPolicy === 'failover') await this.#keeper.keep(pid, await client.descriptors())
  }

  /** Whether anybody kept what the kernel's mounts, or those of FUSE, ask: they wait for a successor. */
  keeps(path: 'kernel' | 'fuse'): boolean {
    const names = path === 'fuse' ? ['fuse.session'] : Object.keys(DRIVER_OF)
    return names.some(name => this.#keeper.has(name))
  }

  /** What the daemon has at this moment; nothing while there is none. */
  async descriptorNames(): Promise<string[]> {
    try {
      return (await this.#client?.descriptors())?.map(({ name }) => name) ?? []
    } catch (err) {
      if (asFault(err).code === 'DAEMON_UNAVAILABLE') return []
      throw err
    }
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
    countDaemonEvent('DESTROYED')
    await this.#setup.store.write([{ type: 'del', key: this.#setup.storeKey }])
  }

  /** Nothing is mounted on its descriptors any more: nobody is to keep them. */
  async forget(): Promise<void> {
    await this.#keeper.forget()
  }

  /** Stops watching and closes our descriptors: a later run takes them from the daemon or the holders. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#serving.catch(() => undefined)
    await this.#keeper.close()
    await this.#client?.close()
  }

  /** Takes a living daemon of an earlier run back. @returns false when there is none */
  async adopt(): Promise<boolean> {
    if (this.#process && isRunning(this.#process)) return true
    await this.#keeper.recall()
    const record = await this.#setup.store.get<DaemonRecord>(this.#setup.storeKey)
    if (!record || !isRunning(record)) {
      await this.#endStray(this.#place.apiSocket)
      return false
    }
    const client = new DaemonClient(record.apiSocket)
    try {
      // First, for it may be the last one that holds them.
      await this.#keep(record.pid, client)
      const info = await client.info()
      if (info.state !== 'RUNNING') throw fault('DAEMON_STATE', `the daemon is ${info.state}`)
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
    this.#place = { ...this.#place, apiSocket: record.apiSocket }
    this.#process = record
    this.#service = record.service
    this.#logger.info({ pid: record.pid, driver: this.#driver }, 'daemon adopted')
    this.#watch(record)
    return true
  }

  /**
   * Starts a daemon: a successor of one that died unseen where its descriptors were kept, else a first one.
   * @returns whether what was mounted is served on
   */
  async launch(): Promise<boolean> {
    if (this.#keeper.list().length > 0 && (await this.#continue())) return true
    await this.#keeper.forget()
    this.#driver = ''
    await this.#launch()
    return false
  }

  /** @returns false when no successor comes up with what was kept */
  async #continue(): Promise<boolean> {
    const record = await this.#setup.store.get<DaemonRecord>(this.#setup.storeKey)
    if (record !== undefined && record.service !== this.#setup.service) {
      const { service } = this.#setup
      this.#logger.error({ service, was: record.service }, 'a daemon of another service cannot be succeeded')
      return false
    }
    this.#driver =
      Object.keys(DRIVER_OF)
        .map(name => (this.#keeper.has(name) ? DRIVER_OF[name] : ''))
        .find(Boolean) ?? ''
    for (let attempt = 1; attempt <= CONTINUE_ATTEMPTS; attempt++) {
      try {
        await this.#launch()
        return true
      } catch (err) {
        this.#logger.error(
          { err: asFault(err), attempt },
          'a successor with kept descriptors did not come up',
        )
        await delay(Math.min(50 * 2 ** attempt, CONTINUE_PAUSE_MAX_MS), undefined, {
          signal: this.#closing.signal,
        })
      }
    }
    return false
  }

  /** Starts a daemon with what the keeper holds, gives it the images that are known, and lets it serve. */
  async #launch(place = this.#place, onStandby?: () => Promise<void>): Promise<void> {
    const { logPath, directories, service, args, store, storeKey } = this.#setup
    const { nydusdPath, apiSocket } = place
    await this.#prepareMountpoint()
    for (const directory of [dirname(apiSocket), dirname(logPath), ...directories])
      mkdirSync(directory, { recursive: true, mode: 0o700 })
    const images = await this.#knownImages()
    const waits = images.length > 0 || this.#setup.waits
    await this.#endStray(apiSocket)
    const { killedBy, ...daemon } = await startDaemon({
      nydusdPath,
      logPath,
      kept: this.#keeper.list(),
      ...(onStandby && { onStandby }),
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
      await this.#keep(daemon.pid, client)
    } catch (err) {
      await client.close()
      kill(daemon)
      await processEnded(daemon.pid)
      throw err
    }
    await this.#client?.close()
    this.#client = client
    this.#place = place
    this.#process = daemon
    this.#service = service
    this.#logger.info({ pid: daemon.pid, driver: this.#driver, images: images.length }, 'daemon runs')
    countDaemonEvent('RUNNING')
    this.#watch(daemon, killedBy)
  }

  /**
   * Puts a process of another program in the place of the daemon, with what it holds and serves. The new one stands by,
   * loaded and with the state checked, before the old one is ended; readers wait from then until it serves.
   * @returns how long that was, milliseconds
   * @throws UPGRADE_FAILED the old program serves on: the same process, or a successor if it had been ended already
   */
  async upgrade(nydusdPath: string): Promise<number> {
    if (this.#setup.recoverPolicy !== 'failover')
      throw fault('UPGRADE_FAILED', 'should set recover policy to failover to enable hot upgrade')
    await this.#serving
    const old = this.#process
    if (!old || !isRunning(old))
      throw fault('UPGRADE_FAILED', 'the daemon does not run: there is none to upgrade')
    const before = this.#place
    const place = { nydusdPath, apiSocket: nextSocket(before.apiSocket) }
    let endedMs: number | undefined
    let served: () => void = () => undefined
    try {
      await this.#launch(place, async () => {
        if (!isRunning(old)) throw new Error('the daemon before it died meanwhile')
        this.#retired = old
        this.#serving = new Promise(resolve => (served = resolve))
        endedMs = performance.now()
        kill(old)
        await processEnded(old.pid)
      })
    } catch (err) {
      const why = asFault(err).message
      if (endedMs === undefined)
        throw fault('UPGRADE_FAILED', `${why}: the daemon before it serves on`, { cause: err })
      this.#logger.error(
        { err: asFault(err) },
        'the new daemon did not come up: the old program is started again',
      )
      this.#place = before
      this.#deaths.failed()
      await this.#succeed()
      throw fault('UPGRADE_FAILED', `${why}: the program before it was started again and serves`, {
        cause: err,
      })
    } finally {
      served()
    }
    rmSync(before.apiSocket, { force: true })
    return Math.round(performance.now() - (endedMs ?? 0))
  }

  /**
   * A daemon whose starter was killed before it wrote it down serves nobody, but it has the cache and the socket, and
   * may be the last one that holds what it was given.
   */
  async #endStray(apiSocket: string): Promise<void> {
    const client = new DaemonClient(apiSocket, { timeoutMs: STRAY_TIMEOUT_MS })
    try {
      const { pid } = await client.info()
      const stray = identify(pid)
      if (!stray) return
      if (this.#keeper.list().length === 0) await this.#keep(pid, client)
      this.#logger.warn({ pid }, 'a daemon that nobody knows of is ended')
      kill(stray)
      await processEnded(pid)
    } catch (err) {
      if (asFault(err).code !== 'DAEMON_UNAVAILABLE') throw err
    } finally {
      await client.close()
    }
  }

  #learn({ driver, passed_over, version }: DaemonInfo): void {
    this.#driver = driver
    this.#commit = version.git_commit
    this.#passedOver = passed_over ?? []
  }

  /** With `restart` the mount of the dead daemon stays with who uses it, and the next one makes its own. */
  async #leaveMount(): Promise<void> {
    const { fuseMountpoint, recoverPolicy } = this.#setup
    if (recoverPolicy === 'restart' && fuseMountpoint !== undefined) await detachFuse(fuseMountpoint)
  }

  /** A FUSE session that somebody unmounted is over: the successor mounts anew. */
  async #prepareMountpoint(): Promise<void> {
    const { fuseMountpoint } = this.#setup
    if (fuseMountpoint === undefined) return
    if (findFuseMount(fuseMountpoint)) {
      if (this.keeps('fuse')) return
      // Nobody held its session: it is dead.
      await detachFuse(fuseMountpoint)
    }
    await this.#keeper.drop(name => name.startsWith('fuse.'))
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

  /** @param killedBy of a child of ours: what killed it */
  #watch(daemon: ProcessIdentity, killedBy?: StartedDaemon['killedBy']): void {
    const startedMs = performance.now()
    processEnded(daemon.pid, this.#closing.signal).then(
      async () => {
        if (this.#closing.signal.aborted || this.#retired === daemon) return
        const livedMs = Math.round(performance.now() - startedMs)
        const signal = await killedBy
        this.#deaths.died(livedMs, signal)
        countDaemonEvent('DIED')
        const { recoverPolicy } = this.#setup
        this.#logger.error(
          { pid: daemon.pid, livedMs, signal },
          `the daemon died: ${AFTER_DEATH[recoverPolicy]}`,
        )
        if (recoverPolicy === 'none') await this.#lose()
        else this.#serving = this.#succeed()
      },
      (err: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#logger.error({ err: asFault(err) }, 'the daemon is not watched')
      },
    )
  }

  /** Nobody is to follow the daemon. */
  async #lose(): Promise<void> {
    const client = this.#client
    this.#client = undefined
    // Calls that wait for another are told that there is none.
    this.#process = undefined
    await client?.close()
  }

  /** Brings a successor up, as often as it takes. */
  async #succeed(): Promise<void> {
    while (!this.#closing.signal.aborted) {
      const { pauseMs, inRow: deaths } = this.#deaths
      if (pauseMs > 0) {
        this.#logger.error({ pauseMs, deaths }, 'the daemon keeps dying: waiting before the next start')
        countDaemonEvent('BACKED_OFF')
        this.#pausedUntilMs = Date.now() + pauseMs
        await delay(pauseMs, undefined, { signal: this.#closing.signal }).catch(() => undefined)
        this.#pausedUntilMs = 0
      }
      if (this.#closing.signal.aborted) return
      const kept = this.keeps('kernel')
      try {
        await this.#leaveMount()
        await this.#launch()
        if (!kept) this.#lost()
        return
      } catch (err) {
        this.#deaths.failed()
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

/** Upstream's names: `api.sock`, `api1.sock`, `api2.sock`. */
function nextSocket(apiSocket: string): string {
  const [, number = '0'] = /(\d*)\.sock$/.exec(apiSocket) ?? []
  return apiSocket.replace(/\d*\.sock$/, `${Number(number) + 1}.sock`)
}

function isRunning(daemon: ProcessIdentity): boolean {
  return identify(daemon.pid)?.startTicks === daemon.startTicks
}

/** kill -9, unless the pid is somebody else's by now. */
function kill(daemon: ProcessIdentity): void {
  if (isRunning(daemon)) process.kill(daemon.pid, 'SIGKILL')
}
