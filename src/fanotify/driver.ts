/**
 * The fanotify driver: EROFS mounted from files, with a pre-content mark on each blob's cache file. The kernel asks
 * before it reads a range; the answer comes after `ensure`.
 *
 * Invariants: every blob is marked before the mount opens it and after our fill descriptor was opened; the group
 * descriptor is blocking, with an unlimited queue, and has a second holder before anything is mounted; a blob is
 * unmarked only when it is complete and on the disk and no mount of it is under way.
 *
 * Follows fanotify(7) and fanotify_mark(2), FAN_CLASS_PRE_CONTENT and FAN_PRE_ACCESS.
 */
import { closeSync, openSync, readdirSync, unlinkSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { CachedBlob } from '../cache/cached-blob.js'
import { EventJournal } from '../cache/event-journal.js'
import type { Driver, DriverStats, Instance, KeptDescriptor, MountPlan } from '../cache/driver.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { getOpenFileLimits } from '../native/descriptor.js'
import { type DenyErrno, FAN, encodeAllow, encodeDeny } from '../native/fanotify-events.js'
import { FAN_INIT, addMark, openFanotifyGroup, removeMark } from '../native/fanotify.js'
import { EventLoop } from './event-loop.js'
import { COUNTERS, EVENT_BUFFER_BYTES, type Miss, type WatchedFile } from './messages.js'
import { reserveAndDeny } from './settle.js'

export interface FanotifyOptions {
  /** Directory of the cache files; must be on ext4, xfs or btrfs. */
  cacheDirectory: string
  /** Where the journal lives: on /run, so that it dies with the boot. */
  runDirectory: string
  /** The group of a predecessor; a fresh one is made when there is none. */
  keptGroupFd?: number
  logger: Logger
}

interface Watch {
  readonly blob: CachedBlob
  /** Instances that use the blob. */
  users: number
  /** Instances between attach and mounted: while there are any, the mark stays. */
  mounting: number
  marked: boolean
}

/** `struct fanotify_event_metadata`: no event is shorter. */
const EVENT_MIN_BYTES = 24
/** How long an end waits for what is being fetched. */
const DRAIN_TIMEOUT_MS = 2000
/** Descriptors left to everything but unanswered events. */
const DESCRIPTOR_RESERVE = 1024

export class FanotifyDriver implements Driver {
  readonly name = 'fanotify'
  readonly #options: FanotifyOptions
  readonly #logger: Logger
  readonly #groupFd: number
  readonly #journal: EventJournal
  readonly #takenOver: boolean
  readonly #watches = new Map<number, Watch>()
  readonly #instances = new Map<string, { readonly instance: Instance; mounted: boolean }>()
  #loop: EventLoop | undefined
  readonly #underWay = new Set<Promise<void>>()
  #ending: 'drains' | 'ended' | undefined
  #proberPid = 0

  /** @throws DRIVER_UNSUPPORTED when the kernel has no pre-content events or the file system no support for them */
  constructor(options: FanotifyOptions) {
    this.#options = options
    this.#logger = options.logger
    this.#takenOver = options.keptGroupFd !== undefined
    this.#groupFd = options.keptGroupFd ?? openGroup(options.cacheDirectory)
    this.#journal = new EventJournal(join(options.runDirectory, 'fanotify.journal'))
    if (!this.#takenOver) this.#journal.reset()
  }

  start(): Promise<void> {
    const limit = getOpenFileLimits().soft
    const entries = this.#takenOver ? this.#journal.entries() : []
    const left: Miss[] = entries.map(({ slot, ...range }) => ({ eventFd: slot, ...range }))
    const reservation = this.#takenOver
      ? reserveAndDeny(left, Math.min(limit, this.#numbersInUse()), this.#respond)
      : undefined
    this.#loop = new EventLoop({
      groupFd: this.#groupFd,
      journalPath: join(this.#options.runDirectory, 'fanotify.journal'),
      directory: this.#options.cacheDirectory,
      pendingLimit: Math.max(64, Math.min(limit - DESCRIPTOR_RESERVE, 8192)),
      watched: [...this.#watches.values()].map(({ blob }) => watchedFile(blob)),
      proberPid: this.#proberPid,
      logger: this.#logger,
      onMiss: miss => this.#track(this.#serve(miss).finally(() => this.#close(miss.eventFd))),
    })
    if (!reservation) return Promise.resolve()
    this.#logger.info(
      { journalled: left.length, denied: reservation.denied },
      'settling events of the predecessor',
    )
    for (const entry of left) {
      Atomics.add(this.#loop.counters, COUNTERS.pending, 1)
      this.#track(this.#serve(entry).finally(() => reservation.release(entry.eventFd)))
    }
    return Promise.resolve()
  }

  /**
   * No event of the predecessor has a number from here on: numbers are given lowest first, and but for those of its last
   * read it has put every one into the journal. The limit of open files itself may be a million, which takes a minute.
   */
  #numbersInUse(): number {
    const own = Math.max(...readdirSync('/proc/self/fd').map(Number))
    const lastRead = EVENT_BUFFER_BYTES / EVENT_MIN_BYTES
    return Math.ceil(Math.max(this.#journal.slots, own) + lastRead + DESCRIPTOR_RESERVE)
  }

  async attach(instance: Instance): Promise<MountPlan> {
    if (this.#instances.has(instance.key))
      throw fault('INSTANCE_EXISTS', `${instance.key} is attached already`)
    const added: Watch[] = []
    try {
      for (const blob of instance.blobs) added.push(await this.#watch(blob))
    } catch (err) {
      for (const watch of added) await this.#release(watch, true)
      throw err
    }
    this.#instances.set(instance.key, { instance, mounted: false })
    return { kind: 'file', source: instance.bootstrapPath, devices: instance.blobs.map(blob => blob.path) }
  }

  mounted(key: string): void {
    const entry = this.#instances.get(key)
    if (!entry || entry.mounted) return
    entry.mounted = true
    for (const blob of entry.instance.blobs) {
      const watch = this.#watches.get(blob.ino)
      if (!watch) continue
      watch.mounting--
      blob.onDurable(() => this.#unmarkIfIdle(watch))
    }
  }

  async detach(key: string): Promise<void> {
    const entry = this.#instances.get(key)
    if (!entry) return
    this.#instances.delete(key)
    for (const blob of entry.instance.blobs) {
      const watch = this.#watches.get(blob.ino)
      if (watch) await this.#release(watch, !entry.mounted)
    }
  }

  setProber(pid: number): void {
    this.#proberPid = pid
    void this.#loop?.tell({ type: 'prober', pid })
  }

  descriptors(): KeptDescriptor[] {
    const fills = [...this.#watches.values()].map(({ blob }) => ({
      name: `fill.${blob.blobId}`,
      fd: blob.fillFd,
    }))
    return [{ name: 'fanotify.group', fd: this.#groupFd }, ...fills]
  }

  stats(): DriverStats {
    const counters = this.#loop?.counters
    const at = (index: number): number => (counters ? Atomics.load(counters, index) : 0)
    return {
      eventsAnswered: at(COUNTERS.answered),
      eventsDenied: at(COUNTERS.denied),
      eventsPending: at(COUNTERS.pending),
    }
  }

  /** What has been read is answered, or left in the journal to a successor: nothing is denied because of an end. */
  async stop(): Promise<void> {
    this.#ending = 'drains'
    await this.#loop?.stop()
    await Promise.race([Promise.all(this.#underWay), delay(DRAIN_TIMEOUT_MS, undefined, { ref: false })])
    this.#ending = 'ended'
    this.#loop = undefined
    this.#journal.close()
  }

  #track(serving: Promise<void>): void {
    this.#underWay.add(serving)
    void serving.finally(() => this.#underWay.delete(serving))
  }

  async #watch(blob: CachedBlob): Promise<Watch> {
    let watch = this.#watches.get(blob.ino)
    if (!watch) {
      watch = { blob, users: 0, mounting: 0, marked: false }
      this.#watches.set(blob.ino, watch)
      await this.#loop?.tell({ type: 'watch', file: watchedFile(blob) })
    }
    watch.users++
    watch.mounting++
    if (!watch.marked) {
      addMark(this.#groupFd, blob.path, FAN.PRE_ACCESS)
      watch.marked = true
    }
    return watch
  }

  async #release(watch: Watch, mounting: boolean): Promise<void> {
    watch.users--
    if (mounting) watch.mounting--
    if (watch.users > 0) return
    this.#unmark(watch)
    this.#watches.delete(watch.blob.ino)
    await this.#loop?.tell({ type: 'forget', dev: watch.blob.dev, ino: watch.blob.ino })
  }

  #unmarkIfIdle(watch: Watch): void {
    if (watch.mounting === 0 && watch.users > 0 && watch.blob.durable) this.#unmark(watch)
  }

  #unmark(watch: Watch): void {
    if (!watch.marked) return
    watch.marked = false
    try {
      removeMark(this.#groupFd, watch.blob.path, FAN.PRE_ACCESS)
    } catch (err) {
      if (!hasErrno(err, 'ENOENT'))
        this.#logger.warn({ err, blobId: watch.blob.blobId }, 'cannot remove the mark')
    }
  }

  /** Fetches what an event asks for and answers it, by the number of its descriptor. */
  async #serve(miss: Miss): Promise<void> {
    const blob = this.#watches.get(miss.ino)?.blob
    let denial: DenyErrno | undefined
    try {
      if (!blob || blob.dev !== miss.dev) {
        throw fault(
          'CACHE_UNKNOWN_BLOB',
          `an event came for inode ${miss.ino}, which belongs to no open blob`,
        )
      }
      const length = Math.min(miss.count, blob.sizeBytes - miss.offset)
      if (length > 0) await blob.ensure(miss.offset, length, { kind: 'demand' })
    } catch (err) {
      // The successor finds it in the journal.
      if (this.#ending !== undefined) return
      const failure = asFault(err)
      denial = failure.code === 'CACHE_FULL' ? 'ENOSPC' : 'EIO'
      this.#logger.error(
        { err: failure, blobId: blob?.blobId, offset: miss.offset, count: miss.count },
        'a read is failed',
      )
    }
    if (this.#ending === 'ended') return
    this.#respond(denial ? encodeDeny(miss.eventFd, denial) : encodeAllow(miss.eventFd))
    this.#journal.clear(miss.eventFd)
    const counters = this.#loop?.counters
    if (!counters) return
    Atomics.add(counters, denial ? COUNTERS.denied : COUNTERS.answered, 1)
    Atomics.sub(counters, COUNTERS.pending, 1)
    Atomics.notify(counters, COUNTERS.pending)
  }

  readonly #respond = (answer: Buffer): boolean => {
    try {
      writeSync(this.#groupFd, answer)
      return true
    } catch (err) {
      // ENOENT: the reader was killed meanwhile, or the number names no event.
      if (hasErrno(err, 'ENOENT')) return false
      throw err
    }
  }

  #close(eventFd: number): void {
    try {
      closeSync(eventFd)
    } catch (err) {
      this.#logger.warn({ err, eventFd }, 'cannot close the descriptor of an event')
    }
  }
}

function watchedFile({ dev, ino, readyBlocks, sizeBytes }: CachedBlob): WatchedFile {
  return { dev, ino, readyBlocks, sizeBytes }
}

function openGroup(cacheDirectory: string): number {
  let group: number
  try {
    group = openFanotifyGroup(
      FAN_INIT.CLASS_PRE_CONTENT | FAN_INIT.UNLIMITED_QUEUE | FAN_INIT.UNLIMITED_MARKS,
    )
  } catch (err) {
    throw fault('DRIVER_UNSUPPORTED', 'this kernel has no fanotify permission events', { cause: err })
  }
  try {
    probeMark(group, cacheDirectory)
    return group
  } catch (err) {
    closeSync(group)
    throw err
  }
}

/** Marks a private file in the cache directory: kernel and file system each have a word in it. */
function probeMark(group: number, cacheDirectory: string): void {
  const probe = join(cacheDirectory, `.probe-${process.pid}`)
  closeSync(openSync(probe, 'w', 0o600))
  try {
    addMark(group, probe, FAN.PRE_ACCESS)
    removeMark(group, probe, FAN.PRE_ACCESS)
  } catch (err) {
    if (hasErrno(err, 'EOPNOTSUPP')) {
      throw fault(
        'DRIVER_UNSUPPORTED',
        `the file system of ${cacheDirectory} has no pre-content events: put the cache on ext4, xfs or btrfs`,
        { cause: err },
      )
    }
    throw fault(
      'DRIVER_UNSUPPORTED',
      'this kernel has no fanotify pre-content events: Linux 6.14 brought them',
      {
        cause: err,
      },
    )
  } finally {
    unlinkSync(probe)
  }
}
