import { closeSync } from 'node:fs'
import type { DescriptorInfo } from '../client/api.js'
import { fault, hasErrno } from '../common/fault.js'
import { isSameFile, openPidfd, takeDescriptor } from '../native/process.js'
import { type Holders, KEEPS_NOTHING } from './holders.js'

/**
 * Keeps the kernel descriptors of one daemon: duplicates in this process, and with the holders, which outlive it. It does
 * no work with them: while anybody holds the fanotify group or /dev/cachefiles, the readers of a killed daemon wait for
 * its successor instead of reading zeros or errors.
 */
export class DescriptorKeeper {
  readonly #key: string
  readonly #holders: Holders
  readonly #kept = new Map<string, number>()
  /** Who is told that something is kept may rely on it: one call after the other. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(key: string, holders: Holders) {
    this.#key = key
    this.#holders = holders
  }

  /** Takes back what some holder kept of this daemon from an earlier run; every holder has it then. */
  recall(): Promise<void> {
    return this.#inTurn(async () => {
      for (const [name, fd] of this.#holders.takeSurvivors(this.#key)) this.#kept.set(name, fd)
      await this.#holders.put(this.#key, this.#kept)
    })
  }

  /**
   * Takes duplicates of what the daemon names and is not kept yet, and lets go of what it no longer names. Resolves when
   * every holder has them.
   * @throws DAEMON_UNAVAILABLE when it is gone meanwhile
   */
  keep(daemonPid: number, wanted: readonly DescriptorInfo[]): Promise<void> {
    if (KEEPS_NOTHING) return Promise.resolve()
    return this.#inTurn(async () => {
      const names = new Set(wanted.map(({ name }) => name))
      await this.#drop(name => !names.has(name))
      const stale = this.#take(daemonPid, wanted)
      try {
        await this.#holders.put(this.#key, this.#kept)
      } finally {
        for (const fd of stale) closeSync(fd)
      }
    })
  }

  /** Lets go of those whose names match. */
  drop(matches: (name: string) => boolean): Promise<void> {
    return this.#inTurn(() => this.#drop(matches))
  }

  /** Lets go of everything, everywhere: nothing is mounted. */
  forget(): Promise<void> {
    return this.drop(() => true)
  }

  has(name: string): boolean {
    return this.#kept.has(name)
  }

  list(): DescriptorInfo[] {
    return [...this.#kept].map(([name, fd]) => ({ name, fd }))
  }

  /** Closes ours; the holders have them for whoever comes after us. */
  async close(): Promise<void> {
    await this.#last
    await this.#holders.settled()
    for (const fd of this.#kept.values()) closeSync(fd)
    this.#kept.clear()
  }

  /** @returns what is not kept any more, since the daemon has another of its name: to be closed */
  #take(daemonPid: number, wanted: readonly DescriptorInfo[]): number[] {
    const stale: number[] = []
    let pidFd: number | undefined
    try {
      for (const { name, fd } of wanted) {
        const known = this.#kept.get(name)
        // Where the kernel cannot compare them a name has to do.
        if (known !== undefined && isSameFile(daemonPid, fd, known) !== false) continue
        pidFd ??= openPidfd(daemonPid)
        this.#kept.set(name, takeDescriptor(pidFd, fd))
        if (known !== undefined) stale.push(known)
      }
      return stale
    } catch (err) {
      if (!hasErrno(err, 'ESRCH') && !hasErrno(err, 'EBADF')) throw err
      throw fault('DAEMON_UNAVAILABLE', 'the daemon ended while its descriptors were taken: try again', {
        cause: err,
      })
    } finally {
      if (pidFd !== undefined) closeSync(pidFd)
    }
  }

  async #drop(matches: (name: string) => boolean): Promise<void> {
    const dropped = [...this.#kept].filter(([name]) => matches(name))
    for (const [name] of dropped) this.#kept.delete(name)
    await this.#holders.remove(
      this.#key,
      dropped.map(([name]) => name),
    )
    for (const [, fd] of dropped) closeSync(fd)
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#last.then(task)
    this.#last = run.catch(() => undefined)
    return run
  }
}
