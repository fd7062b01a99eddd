import type { Fault } from '../common/fault.js'

/** Failures kept at most, so that a backend that is down for a large blob costs no memory. */
const MAX_KEPT = 4096

/**
 * Remembers what just failed, for a moment: one failing read reaches the cache as several kernel events, and they share
 * one retry budget. After the window the same question is tried afresh.
 */
export class FailureWindow {
  readonly #windowMs: number
  readonly #now: () => number
  readonly #failures = new Map<number, { until: number; fault: Fault }>()

  /** @param now a monotonic clock in milliseconds */
  constructor(windowMs: number, now: () => number) {
    this.#windowMs = windowMs
    this.#now = now
  }

  add(key: number, fault: Fault): void {
    this.#failures.delete(key)
    const oldest = this.#failures.keys().next()
    if (this.#failures.size >= MAX_KEPT && !oldest.done) this.#failures.delete(oldest.value)
    this.#failures.set(key, { until: this.#now() + this.#windowMs, fault })
  }

  /** The failure of that key while its window is open. */
  get(key: number): Fault | undefined {
    const failure = this.#failures.get(key)
    if (!failure) return undefined
    if (this.#now() < failure.until) return failure.fault
    this.#failures.delete(key)
    return undefined
  }
}
