import { closeSync } from 'node:fs'
import type { DescriptorInfo } from '../client/api.js'
import { openPidfd, takeDescriptor } from '../native/process.js'

/**
 * Second holder of the kernel descriptors of a daemon. It does no work with them: while it holds the fanotify group or
 * /dev/cachefiles, the readers of a killed daemon wait for its successor instead of reading zeros or errors.
 *
 * `keep`, `take`, `list` are the whole contract, so that the holder can move to another process.
 */
export class DescriptorKeeper {
  readonly #kept = new Map<string, number>()

  /** Takes duplicates of what the daemon names and is not kept yet, and lets go of what it no longer names. */
  keep(daemonPid: number, wanted: readonly DescriptorInfo[]): void {
    const names = new Set(wanted.map(({ name }) => name))
    this.drop(name => !names.has(name))
    const missing = wanted.filter(({ name }) => !this.#kept.has(name))
    if (missing.length === 0) return
    const pidFd = openPidfd(daemonPid)
    try {
      for (const { name, fd } of missing) this.#kept.set(name, takeDescriptor(pidFd, fd))
    } finally {
      closeSync(pidFd)
    }
  }

  /** Lets go of those whose names match. */
  drop(matches: (name: string) => boolean): void {
    for (const [name, fd] of this.#kept) {
      if (!matches(name)) continue
      this.#kept.delete(name)
      closeSync(fd)
    }
  }

  /** The kept descriptor of that name, still owned by the keeper. */
  take(name: string): number | undefined {
    return this.#kept.get(name)
  }

  list(): DescriptorInfo[] {
    return [...this.#kept].map(([name, fd]) => ({ name, fd }))
  }

  /** Lets go of everything: when the daemon holds it too, or nothing is mounted. */
  release(): void {
    this.drop(() => true)
  }
}
