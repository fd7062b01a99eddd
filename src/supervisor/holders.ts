/**
 * Who keeps descriptors beside this process and the daemon: nydus-holder, a process that does nothing else, and the
 * service manager's descriptor store. What they have outlives this process.
 *
 * Invariants: what `put` was called for is with each of them when it resolves, or an error says with whom it is not; a
 * holder that dies or does not answer is replaced and given everything again; calls are carried out one after the other.
 */
import { closeSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { asFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { removeDescriptor, storeBarrier, storeDescriptor } from '../native/notify.js'
import { openPidfd, takeDescriptor } from '../native/process.js'
import { identify, type ProcessIdentity, processEnded } from './daemon-process.js'
import { readHolderTable, startHolder } from './holder-process.js'
import type { ServiceManager } from './service-manager.js'

export interface HoldersOptions {
  /** On /run: the holder's socket and table. */
  readonly runDirectory: string
  readonly logDirectory: string
  readonly manager?: ServiceManager
  readonly logger: Logger
}

/** Who holds a descriptor beside the daemon. */
export type HolderName = 'snapshotter' | 'holder' | 'manager'

interface Held {
  /** Ours, open as long as it stands here. */
  readonly fd: number
  readonly holder: boolean
  readonly manager: boolean
}

/** A store that is asked and does not answer for so long is given up for now. */
const ANSWER = { timeoutMs: 5_000 }
/**
 * For tests: `supervisor`, nobody but this process keeps; `nobody`, not even this process. What dies then takes mounts with
 * it, and checks of that have something to find.
 */
const TEST_KEEPING = process.env['NYDUS_TEST_KEEPING']

export const KEEPS_NOTHING = TEST_KEEPING === 'nobody'

export class Holders {
  readonly socketPath: string
  readonly manager: ServiceManager | undefined
  readonly #logPath: string
  readonly #logger: Logger
  readonly #closing = new AbortController()
  readonly #held = new Map<string, Held>()
  /** From an earlier run, by full name; nobody has asked for them yet. */
  readonly #survivors = new Map<string, Held>()
  #process: ProcessIdentity | undefined
  #queue: Promise<unknown> = Promise.resolve()

  constructor({ runDirectory, logDirectory, manager, logger }: HoldersOptions) {
    this.socketPath = join(runDirectory, 'holder.sock')
    this.manager = TEST_KEEPING === undefined ? manager : undefined
    this.#logPath = join(logDirectory, 'nydus-holder.log')
    this.#logger = logger
    for (const directory of [runDirectory, logDirectory])
      mkdirSync(directory, { recursive: true, mode: 0o700 })
  }

  /** Process id of the holder; undefined while there is none. */
  get pid(): number | undefined {
    return this.#process?.pid
  }

  /** Finds the holder of an earlier run, or starts one, and takes what it and the manager kept. */
  open(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#process || TEST_KEEPING !== undefined) return
      for (const [name, fd] of this.manager?.inherited ?? [])
        this.#survivors.set(name, { fd, holder: false, manager: true })
      await this.#find()
      if (this.#survivors.size > 0)
        this.#logger.info({ descriptors: this.#survivors.size }, 'descriptors were kept')
      if (!this.#process) await this.#replace()
    })
  }

  /** What was kept of a daemon, by the names that it gave; the caller's from here on, who puts it again or removes it. */
  takeSurvivors(key: string): Map<string, number> {
    const own = new Map<string, number>()
    for (const [full, held] of this.#survivors) {
      const [owner, name] = parseName(full)
      if (owner !== key || name === undefined) continue
      this.#survivors.delete(full)
      this.#held.set(full, held)
      own.set(name, held.fd)
    }
    return own
  }

  /** Lets go of what nobody asked for: nothing is mounted on it any more. */
  async forgetSurvivors(): Promise<void> {
    await this.#inTurn(async () => {
      const names = [...this.#survivors.keys()]
      await this.#discard(names)
      for (const { fd } of this.#survivors.values()) closeSync(fd)
      this.#survivors.clear()
    })
  }

  /**
   * Gives descriptors to each holder that does not have them. One that replaces another of its name does so everywhere.
   * @param entries descriptors by the daemon's names; they stay open until they are removed
   */
  async put(key: string, entries: ReadonlyMap<string, number>): Promise<void> {
    await this.#inTurn(async () => {
      const replaced: string[] = []
      for (const [name, fd] of entries) {
        const full = fullName(key, name)
        const known = this.#held.get(full)
        if (known?.fd === fd) continue
        if (known) replaced.push(full)
        this.#held.set(full, { fd, holder: false, manager: false })
      }
      // systemd would keep both.
      if (replaced.length > 0) await this.#discard(replaced)
      await Promise.all([this.#fillHolder(), this.#fillManager()])
    })
  }

  /** Takes them away from each holder; ours may be closed afterwards. */
  async remove(key: string, names: readonly string[]): Promise<void> {
    if (names.length === 0) return
    await this.#inTurn(async () => {
      const full = names.map(name => fullName(key, name))
      for (const name of full) this.#held.delete(name)
      await this.#discard(full)
    })
  }

  /** Who has what beside the daemons, by full name; the holder is asked. */
  async list(): Promise<Map<string, HolderName[]>> {
    return this.#inTurn(() => {
      const inHolder = this.#process ? readHolderTable(this.socketPath)?.held : undefined
      const all = new Set([...this.#held.keys(), ...(inHolder?.keys() ?? [])])
      const holdersOf = (name: string): HolderName[] => {
        const own = this.#held.get(name)
        const holders: (HolderName | false)[] = [
          own !== undefined && 'snapshotter',
          inHolder?.has(name) === true && 'holder',
          own?.manager === true && 'manager',
        ]
        return holders.filter(holder => holder !== false)
      }
      return Promise.resolve(new Map([...all].sort().map(name => [name, holdersOf(name)])))
    })
  }

  /** Stops watching. The holder lives on, unless it holds nothing and is told to end. */
  async close({ end }: { end: boolean }): Promise<void> {
    this.#closing.abort()
    await this.#queue
    for (const { fd } of this.#survivors.values()) closeSync(fd)
    this.#survivors.clear()
    if (!end || !this.#process) return
    signal(this.#process, 'SIGTERM')
    if (this.#held.size === 0) await processEnded(this.#process.pid)
  }

  /** Resolves when nothing is under way any more. */
  async settled(): Promise<void> {
    await this.#inTurn(() => Promise.resolve())
  }

  /** Takes duplicates of what a living holder has. */
  async #find(): Promise<void> {
    const found = readHolderTable(this.socketPath)
    if (!found) return
    try {
      // What the dead snapshotter had sent last may not be in the table yet.
      await storeBarrier(this.socketPath, ANSWER)
      const pidFd = openPidfd(found.process.pid)
      try {
        for (const [name, number] of readHolderTable(this.socketPath)?.held ?? [])
          this.#survive(name, takeDescriptor(pidFd, number))
      } finally {
        closeSync(pidFd)
      }
      this.#process = found.process
      this.#watch(found.process)
    } catch (err) {
      this.#logger.error(
        { err: asFault(err), pid: found.process.pid },
        'the holder cannot be used: it is replaced',
      )
      this.#process = found.process
      await this.#replace()
    }
  }

  #survive(name: string, fd: number): void {
    const fromManager = this.#survivors.get(name)
    if (fromManager) closeSync(fromManager.fd)
    this.#survivors.set(name, { fd, holder: true, manager: fromManager !== undefined })
  }

  /** Starts another holder, in place of one that is dead or does not answer, and gives it everything. */
  async #replace(): Promise<void> {
    const before = this.#process
    this.#process = undefined
    for (const [name, held] of this.#held) this.#held.set(name, { ...held, holder: false })
    for (const [name, held] of this.#survivors) this.#survivors.set(name, { ...held, holder: false })
    if (this.#closing.signal.aborted) return
    try {
      if (before) {
        signal(before, 'SIGKILL')
        await processEnded(before.pid)
      }
      this.#process = await startHolder(this.socketPath, this.#logPath)
      await this.#send([...this.#held])
    } catch (err) {
      this.#logger.error(
        { err: asFault(err) },
        'there is no holder: the death of snapshotter and daemon together costs the mounts',
      )
    }
    if (!this.#process) return
    this.#logger.info({ pid: this.#process.pid, descriptors: this.#held.size }, 'holder runs')
    this.#watch(this.#process)
  }

  #watch(holder: ProcessIdentity): void {
    processEnded(holder.pid, this.#closing.signal).then(
      () =>
        this.#inTurn(async () => {
          if (this.#process !== holder || this.#closing.signal.aborted) return
          this.#logger.error({ pid: holder.pid }, 'the holder died: another takes its place')
          await this.#replace()
        }),
      (err: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#logger.error({ err: asFault(err) }, 'the holder is not watched')
      },
    )
  }

  async #fillHolder(): Promise<void> {
    if (TEST_KEEPING !== undefined) return
    try {
      if (this.#process) await this.#send([...this.#held].filter(([, { holder }]) => !holder))
      else await this.#replace()
    } catch (err) {
      this.#logger.error(
        { err: asFault(err) },
        'the holder does not take descriptors: another takes its place',
      )
      await this.#replace()
    }
  }

  async #send(entries: readonly (readonly [string, Held])[]): Promise<void> {
    if (entries.length === 0) return
    for (const [name, { fd }] of entries) await storeDescriptor(this.socketPath, name, fd, ANSWER)
    await storeBarrier(this.socketPath, ANSWER)
    for (const [name] of entries) this.#mark(name, { holder: true })
  }

  async #fillManager(): Promise<void> {
    if (!this.manager) return
    const { socketPath, limit } = this.manager
    const entries = [...this.#held].filter(([, { manager }]) => !manager)
    if (entries.length === 0) return
    if (limit !== undefined && this.#held.size > limit)
      this.#logger.warn(
        { limit, descriptors: this.#held.size },
        'the service manager keeps fewer descriptors than there are: raise FileDescriptorStoreMax= of the unit',
      )
    try {
      for (const [name, { fd }] of entries) await storeDescriptor(socketPath, name, fd, ANSWER)
      await storeBarrier(socketPath, ANSWER)
      for (const [name] of entries) this.#mark(name, { manager: true })
    } catch (err) {
      this.#logger.warn({ err: asFault(err) }, 'the service manager does not take descriptors')
    }
  }

  #mark(name: string, where: Partial<Held>): void {
    const held = this.#held.get(name)
    if (held) this.#held.set(name, { ...held, ...where })
  }

  /** What cannot be told to a holder that is gone needs not be told. */
  async #discard(names: readonly string[]): Promise<void> {
    const sockets = [this.#process && this.socketPath, this.manager?.socketPath]
    for (const socketPath of sockets) {
      if (socketPath === undefined || names.length === 0) continue
      try {
        for (const name of names) await removeDescriptor(socketPath, name, ANSWER)
        await storeBarrier(socketPath, ANSWER)
      } catch (err) {
        this.#logger.warn({ err: asFault(err), socketPath }, 'a holder was not told to let go of descriptors')
      }
    }
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#queue.then(task)
    this.#queue = run.catch(() => undefined)
    return run
  }
}

/** `KEY/NAME` in characters that a service manager takes, none of them a colon. */
export function fullName(key: string, name: string): string {
  return `${encodeURIComponent(key)}/${encodeURIComponent(name)}`
}

/** Of a name that somebody else gave, the second is undefined. */
export function parseName(full: string): readonly [key: string, name: string | undefined] {
  const [key = '', name, ...more] = full.split('/')
  try {
    return [
      decodeURIComponent(key),
      name === undefined || more.length > 0 ? undefined : decodeURIComponent(name),
    ]
  } catch {
    return [full, undefined]
  }
}

function signal(holder: ProcessIdentity, name: NodeJS.Signals): void {
  if (identify(holder.pid)?.startTicks === holder.startTicks) process.kill(holder.pid, name)
}
