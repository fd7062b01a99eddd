/** The FUSE server: one mount, any number of images in it. See server.ts for what it promises. */
import { closeSync } from 'node:fs'
import os from 'node:os'
import { FileSource } from '../common/byte-source.js'
import { fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { KeptDescriptor } from '../cache/driver.js'
import type { InodeReader } from '../erofs/inode-reader.js'
import { openInodeReader } from '../erofs/open-inode-reader.js'
import { countOperation, countRead, createCounters, lineOf, sumCounters } from './counters.js'
import { FileAccounts } from './file-accounts.js'
import { type Session, sessionFromNumbers, sessionToNumbers } from './init.js'
import type { HandedMiss, WorkerNews } from './messages.js'
import { Misses } from './misses.js'
import { pokeConnection, setReadAhead } from './mountpoint.js'
import { Namespace, type StaleName } from './namespace.js'
import { Notifier } from './notifier.js'
import { type OpenJournal, openJournal } from './open-journal.js'
import { freeSlot } from './request-journal.js'
import {
  READ_OPERATION,
  type FailoverPolicy,
  type FileStats,
  type FuseServer,
  type FuseServerOptions,
  type FuseState,
  type ImageStats,
  type InflightRequest,
  type ServedImage,
} from './server.js'
import { closeMount, openSession, type OpenSession } from './session.js'
import { Workers } from './workers.js'

const READ_AHEAD_KB = 256
const MAX_WORKERS = 4

/** What the main thread has of a shown image. */
interface Shown {
  readonly image: ServedImage
  readonly counters: SharedArrayBuffer
  readonly accounts: FileAccounts
}

/**
 * Mounts, or takes over the mount of a predecessor. Requests wait until `start`.
 * @throws FUSE_UNAVAILABLE, MOUNTPOINT_INVALID, MOUNTPOINT_IN_USE, MOUNT_FAILED, DRIVER_PROTOCOL, NATIVE_TIMEOUT;
 *   DAEMON_STATE when the predecessor's state is of another version or its mount is gone
 */
export async function openFuseServer(options: FuseServerOptions): Promise<FuseServer> {
  const { predecessor, mountpoint } = options
  const open = predecessor
    ? takeOver(mountpoint, predecessor.state, predecessor.sessionFd)
    : await openSession(mountpoint)
  const server = new ImageServer(options, open)
  if (!setReadAhead(open.connection, options.readAheadKb ?? READ_AHEAD_KB))
    options.logger.warn({ mountpoint: open.mountpoint }, 'the read-ahead of the mount cannot be set')
  return server
}

function takeOver(mountpoint: string, state: FuseState, fd: number): OpenSession {
  if (state.version !== 1)
    throw fault(
      'DAEMON_STATE',
      `the FUSE state has version ${String(state.version)}, not 1: unmount and mount again`,
    )
  return { mountpoint, fd, session: sessionFromNumbers(state.init), connection: state.connection }
}

class ImageServer implements FuseServer {
  readonly mountpoint: string
  readonly ended: Promise<void>
  readonly #logger: Logger
  readonly #fd: number
  readonly #session: Session
  readonly #connection: number
  readonly #createdSec: number
  /** How to get what a predecessor left; undefined without one. */
  readonly #failover: FailoverPolicy | undefined
  /** What this server works on, for a successor; undefined where the kernel remembers. */
  readonly #journal: OpenJournal | undefined
  readonly #namespace: Namespace
  readonly #notifier: Notifier
  readonly #workers: Workers
  readonly #misses: Misses
  /** By sequence. */
  readonly #shown = new Map<number, Shown>()
  readonly #lines: number
  /** What the kernel is to forget as soon as there are workers, whom it may wait for. */
  #stale: StaleName[] | undefined = []
  #end: () => void = () => undefined
  #stopped = false
  #closed = false

  constructor(options: FuseServerOptions, open: OpenSession) {
    const { predecessor, logger } = options
    const count = options.workers ?? Math.min(MAX_WORKERS, os.availableParallelism())
    this.#journal = openJournalFor(options, open.session, count)
    this.mountpoint = open.mountpoint
    this.#logger = logger
    this.#fd = open.fd
    this.#session = open.session
    this.#connection = open.connection
    this.#createdSec = predecessor?.state.createdSec ?? Math.floor(Date.now() / 1000)
    this.#failover = predecessor && (options.failover ?? 'resend')
    this.#namespace = new Namespace(openReader, predecessor?.state)
    this.#notifier = new Notifier(open.fd, logger)
    this.#lines = count + 1
    this.#workers = new Workers({
      count,
      logger,
      sessionFd: open.fd,
      session: sessionToNumbers(open.session),
      createdSec: this.#createdSec,
      journal: this.#journal,
      hear: message => this.#hear(message),
    })
    this.#misses = new Misses({
      sessionFd: open.fd,
      logger,
      blobsOf: sequence => this.#shown.get(sequence)?.image.blobs,
      answered: (miss, errno) => this.#answered(miss, errno),
    })
    this.ended = new Promise(resolve => (this.#end = resolve))
  }

  async show(image: ServedImage): Promise<void> {
    const { bootstrapFd, path, blobs } = image
    const { rootIno } = openReader({ bootstrapFd })
    const counters = createCounters(this.#lines)
    const accounts = new FileAccounts(image.accounting)
    const step = this.#namespace.show(path, {
      rootIno,
      bootstrapFd,
      blobs: blobs.map(({ fillFd, sizeBytes, readyBlocks }) => ({ fillFd, sizeBytes, readyBlocks })),
      counters,
      accounted: accounts.enabled,
    })
    this.#shown.set(step.image.sequence, { image, counters, accounts })
    this.#workers.tell(step.changes)
    await this.#forget(step.stale)
  }

  async hide(path: string): Promise<void> {
    const { image, changes, stale } = this.#namespace.hide(path)
    this.#workers.tell(changes)
    // Misses that are told of later are answered at once.
    this.#shown.delete(image.sequence)
    await this.#misses.giveUp(image.sequence)
    await this.#workers.settled()
    await this.#forget(stale)
  }

  async start(): Promise<void> {
    const stale = [...(this.#stale ?? []), ...this.#namespace.prune()]
    this.#stale = undefined
    if (this.#failover) await this.#askAgain(this.#failover)
    this.#workers.start(this.#namespace.snapshot())
    await this.#forget(stale)
  }

  state(): FuseState {
    return {
      version: 1,
      init: sessionToNumbers(this.#session),
      ...this.#namespace.state(),
      connection: this.#connection,
      createdSec: this.#createdSec,
    }
  }

  descriptors(): KeptDescriptor[] {
    return [{ name: 'fuse.session', fd: this.#fd }]
  }

  stats(path: string): ImageStats {
    return sumCounters(this.#namespace.get(path).counters)
  }

  fileStats(path: string): Promise<FileStats[]> {
    return Promise.resolve(this.#accountsOf(path).stats())
  }

  takeLatestReads(path: string): Promise<readonly (readonly [number] | readonly [number, number])[]> {
    return Promise.resolve(this.#accountsOf(path).takeLatestReads())
  }

  inflight(): InflightRequest[] {
    return [...this.#workers.inflight(), ...this.#misses.list()]
  }

  async unmount(): Promise<void> {
    await closeMount(this.mountpoint)
  }

  async stop(): Promise<void> {
    if (this.#stopped) return
    this.#stopped = true
    await this.#workers.stop()
    await this.#misses.idle()
  }

  #hear(message: WorkerNews): void {
    switch (message.type) {
      case 'miss':
        this.#misses.add(message.miss)
        break
      case 'interrupt':
        this.#misses.interrupt(message.uniqueLow, message.uniqueHigh)
        break
      case 'failed': {
        const { sequence, ino, failure } = message
        const path = this.#shown.get(sequence)?.image.path
        this.#logger.error(
          { image: path, ino, code: failure.code },
          `a request is failed: ${failure.message}`,
        )
        break
      }
      case 'refused':
        this.#logger.error(
          { opcode: message.opcode, reason: message.reason },
          'an answer was refused: report it',
        )
        break
      case 'accesses':
        this.#drainAccesses()
        break
      case 'ended':
        void this.#workers.exited().then(() => this.#closeSession())
        break
    }
  }

  /** The session is over and nobody is blocked in it. */
  #closeSession(): void {
    if (this.#closed) return
    this.#closed = true
    closeSync(this.#fd)
    this.#end()
  }

  #answered(miss: HandedMiss, errno: number): void {
    if (this.#journal && miss.slot !== undefined) freeSlot(this.#journal.fd, miss.slot)
    const shown = this.#shown.get(miss.sequence)
    if (!shown) return
    const line = lineOf(shown.counters, this.#lines - 1)
    const nowMs = performance.timeOrigin + performance.now()
    countOperation(line, READ_OPERATION, errno !== 0)
    if (errno === 0) countRead(line, miss.length, Math.max(0, Math.round((nowMs - miss.sinceMs) * 1000)))
    if (!shown.accounts.enabled) return
    const { sequence, ino, length } = miss
    const bytes = errno === 0 ? length : 0
    shown.accounts.add({
      sequence,
      ino,
      operation: READ_OPERATION,
      failed: errno !== 0,
      bytes,
      timeMs: Date.now(),
    })
  }

  #accountsOf(path: string): FileAccounts {
    const shown = this.#shown.get(this.#namespace.get(path).sequence)
    if (!shown) throw fault('INSTANCE_UNKNOWN', `no image is shown at ${path}`)
    this.#drainAccesses()
    return shown.accounts
  }

  #drainAccesses(): void {
    this.#workers.drainAccesses(access => this.#shown.get(access.sequence)?.accounts.add(access))
  }

  /** Before there are workers: what they would have read is not to come twice. */
  async #askAgain(policy: FailoverPolicy): Promise<void> {
    if (policy === 'none') return
    if (this.#journal) {
      this.#logger.info({ requests: this.#journal.left }, 'what the last daemon left is worked on again')
      return
    }
    const done =
      policy === 'flush'
        ? pokeConnection(this.#connection, 'flush')
        : (await this.#notifier.resend()) || pokeConnection(this.#connection, 'resend')
    if (!done)
      this.#logger.warn(
        { policy },
        'this kernel does not send again what the last daemon left: reads may hang',
      )
  }

  async #forget(stale: readonly StaleName[]): Promise<void> {
    if (this.#stale) {
      // Nothing was asked for yet, except of a predecessor.
      if (this.#failover) this.#stale.push(...stale)
      return
    }
    if (this.#closed) return
    for (const { parent, name } of stale) await this.#notifier.invalidateEntry(parent, name)
    for (const parent of new Set(stale.map(({ parent }) => parent)))
      await this.#notifier.invalidateInode(parent)
  }
}

function openReader({ bootstrapFd }: { bootstrapFd: number }): InodeReader {
  return openInodeReader(new FileSource(bootstrapFd))
}

/** For a kernel that does not send requests again, or where it is asked for. */
function openJournalFor(
  options: FuseServerOptions,
  session: Session,
  threads: number,
): OpenJournal | undefined {
  const { failover = 'resend', journalPath, predecessor } = options
  const wanted = failover === 'journal' || (failover !== 'none' && !session.flags.has('HAS_RESEND'))
  if (!wanted || journalPath === undefined) return undefined
  return openJournal(journalPath, threads, predecessor !== undefined)
}
