/**
 * How long to wait before a dead daemon is replaced, for its readers wait too.
 *
 * A daemon that served for `HEALTHY_MS` and was killed from outside (SIGKILL, as by an operator, or for want of memory) is
 * replaced at once, however often that happens. Any other end counts: a crash, a successor that did not come up, a life
 * that was shorter. After the third of those in a row come pauses that double. A life of `STABLE_MS`, or an end that does
 * not count, begins the row afresh.
 */
const HEALTHY_MS = 250
const STABLE_MS = 60_000
const FREE_DEATHS = 2
const FIRST_PAUSE_MS = 500
const PAUSE_MAX_MS = 30_000

export class DeathCount {
  #inRow = 0
  #total = 0

  /** Those that count, since the last that did not. */
  get inRow(): number {
    return this.#inRow
  }

  /** All ends, of daemons and of those that did not come up. */
  get total(): number {
    return this.#total
  }

  /** Before the next start; 0 for at once. */
  get pauseMs(): number {
    if (this.#inRow <= FREE_DEATHS) return 0
    return Math.min(FIRST_PAUSE_MS * 2 ** (this.#inRow - FREE_DEATHS - 1), PAUSE_MAX_MS)
  }

  /**
   * A daemon that served ended.
   * @param signal what killed it; undefined where nobody knows: it was not our child, and counts as killed from outside
   */
  died(livedMs: number, signal: NodeJS.Signals | null | undefined): void {
    this.#total++
    const outside = signal === 'SIGKILL' || signal === undefined
    if (outside && livedMs >= HEALTHY_MS) this.#inRow = 0
    else this.#inRow = livedMs >= STABLE_MS ? 1 : this.#inRow + 1
  }

  /** A successor did not come up. */
  failed(): void {
    this.#total++
    this.#inRow++
  }
}
