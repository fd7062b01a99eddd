/**
 * The one daemon behind all images: started or adopted, watched, and replaced by a successor when it dies. The successor
 * gets the descriptors that the keeper holds and the images that are mounted, and only then begins to serve.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { BlobCacheEntry } from '../client/api.js'
import { DaemonClient, type InstanceName } from '../client/daemon-client.js'
import { asFault, fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { Store } from '../common/store.js'
import { identify, type ProcessIdentity, processEnded, startDaemon } from './daemon-process.js'
import { DescriptorKeeper } from './descriptor-keeper.js'

export interface SharedDaemonOptions {
  readonly store: Store
  readonly cacheDirectory: string
  readonly logDirectory: string
  /** On /run: what must not outlive the boot. */
  readonly runDirectory: string
  /** `kernel`, `auto`, `fscache` or `fanotify`, as nydusd's --driver. */
  readonly driver: string
  /** `nydusd` to run; ours when empty. */
  readonly nydusdPath: string
  readonly logLevel: string
  /** False switches chunk digests off; for tests of the checks themselves. */
  readonly validate: boolean
  readonly logger: Logger
}

/** An image that a new daemon must know before it serves. */
export interface KnownImage {
  readonly name: InstanceName
  readonly entry: BlobCacheEntry
  /** False while its mount is under way: its canary is still to come. */
  readonly mounted: boolean
}

interface DaemonRecord extends ProcessIdentity {
  apiSocket: string
}

const DAEMON_KEY = 'supervisor/daemon'
/** A daemon that dies is replaced at once the first time, then after doubling pauses up to this. */
const RESTART_PAUSE_MAX_MS = 30_000
/** A daemon that lived this long starts its count of deaths afresh. */
const STABLE_MS = 60_000

export class SharedDaemon {
  readonly #options: SharedDaemonOptions
  readonly #logger: Logger
  /** What is mounted or being mounted at the moment of the call. */
  readonly #knownImages: () => Promise<KnownImage[]>
  readonly #keeper = new DescriptorKeeper()
  readonly #closing = new AbortController()
  #client: DaemonClient | undefined
  #driver = ''
  #process: ProcessIdentity | undefined
  #deaths = 0
  /** Settled when a daemon serves; pending while a successor is brought up. */
  #serving: Promise<void> = Promise.resolve()

  constructor(options: SharedDaemonOptions, knownImages: () => Promise<KnownImage[]>) {
    this.#options = options
    this.#logger = options.logger
    this.#knownImages = knownImages
  }

  /** `fscache` or `fanotify`; empty before the first daemon runs. */
  get driver(): string {
    return this.#driver
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

  /** Takes a living daemon of an earlier run back, or starts one. @returns true when it was adopted */
  async start(): Promise<boolean> {
    if (await this.#adopt()) return true
    this.#keeper.release()
    await this.#launch()
    return false
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
    await this.#options.store.write([{ type: 'del', key: DAEMON_KEY }])
  }

  /** Stops watching and lets go of the descriptors: a later run takes them again from the living daemon. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#serving.catch(() => undefined)
    this.#keeper.release()
    await this.#client?.close()
  }

  async #adopt(): Promise<boolean> {
    const record = await this.#options.store.get<DaemonRecord>(DAEMON_KEY)
    if (!record || !isRunning(record)) return false
    const client = new DaemonClient(record.apiSocket)
    try {
      const info = await client.info()
      if (info.state !== 'RUNNING') throw fault('DAEMON_STATE', `the daemon is ${info.state}`)
      this.#keeper.keep(record.pid, await client.descriptors())
      this.#driver = info.driver
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
    this.#logger.info({ pid: record.pid, driver: this.#driver }, 'daemon adopted')
    this.#watch(record)
    return true
  }

  /** Starts a daemon with what the keeper holds, gives it the images that are known, and lets it serve. */
  async #launch(): Promise<void> {
    const { runDirectory, logDirectory, cacheDirectory, store } = this.#options
    for (const directory of [runDirectory, logDirectory, cacheDirectory]) {
      mkdirSync(directory, { recursive: true, mode: 0o700 })
    }
    const apiSocket = join(runDirectory, 'api.sock')
    const images = await this.#knownImages()
    const daemon = await startDaemon({
      nydusdPath: this.#options.nydusdPath,
      logPath: join(logDirectory, 'nydusd.log'),
      kept: this.#keeper.list(),
      args: this.#arguments(apiSocket, images.length > 0),
    })
    await store.write([
      { type: 'put', key: DAEMON_KEY, value: { ...daemon, apiSocket } satisfies DaemonRecord },
    ])
    const client = new DaemonClient(apiSocket)
    try {
      for (const image of images) await this.#rebind(client, image)
      if (images.length > 0) await client.start()
      for (const { name, mounted } of images) if (mounted) await this.#tellMounted(client, name)
      this.#driver = (await client.info()).driver
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
    this.#logger.info({ pid: daemon.pid, driver: this.#driver, images: images.length }, 'daemon runs')
    this.#watch(daemon)
  }

  async #tellMounted(client: DaemonClient, name: InstanceName): Promise<void> {
    try {
      await client.mounted(name)
    } catch (err) {
      if (asFault(err).code !== 'INSTANCE_UNKNOWN') throw err
    }
  }

  /** One image that cannot be bound must not keep the others from being served. */
  async #rebind(client: DaemonClient, image: KnownImage): Promise<void> {
    try {
      await client.bind(image.entry)
    } catch (err) {
      if (asFault(err).code === 'DAEMON_UNAVAILABLE') throw err
      this.#logger.error(
        { err: asFault(err), metadataPath: image.entry.config.metadata_path },
        'an image cannot be bound again: its reads fail until it is mounted anew',
      )
    }
  }

  #arguments(apiSocket: string, passive: boolean): string[] {
    const { cacheDirectory, runDirectory, logLevel, validate, driver } = this.#options
    return [
      'singleton',
      '--fscache',
      cacheDirectory,
      '--driver',
      this.#driver === '' ? driver : this.#driver,
      '--apisock',
      apiSocket,
      '--run-dir',
      runDirectory,
      '--log-level',
      logLevel,
      ...(validate ? [] : ['--no-validate']),
      ...(passive ? ['--upgrade'] : []),
    ]
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
