/**
 * When to try again, how long to wait before, and when to give up.
 *
 * Waits grow exponentially with full jitter, so that many nodes which lost one registry do not come back in step. An
 * attempt that moved data counts as a new beginning: a line that breaks every few megabytes still finishes.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { asFault, fault, Fault } from '../common/fault.js'
import { cancelled } from './transport-errors.js'

export interface RetryPolicy {
  /** Further attempts after the first that brought nothing. */
  readonly retries: number
  /** Upper bound of the first wait; doubles with each attempt. */
  readonly baseDelayMs: number
  readonly maxDelayMs: number
  /** No attempt begins later than this after the last progress. */
  readonly budgetMs: number
}

/** Three retries within half a minute: what a reader blocked in the kernel can bear, and longer than a restart of a proxy. */
export const DEMAND_RETRY: RetryPolicy = { retries: 3, baseDelayMs: 200, maxDelayMs: 5_000, budgetMs: 30_000 }
/** Nobody waits: one retry, later; the reader who needs the data will ask again. */
export const BACKGROUND_RETRY: RetryPolicy = {
  retries: 1,
  baseDelayMs: 1_000,
  maxDelayMs: 5_000,
  budgetMs: 30_000,
}

/** An attempt that brought this much is no failure of the peer. */
const PROGRESS_BYTES = 64 << 10

/** The state of one operation's retries. */
export class Retry {
  readonly #policy: RetryPolicy
  readonly #signals: readonly (AbortSignal | undefined)[]
  #failures = 0
  #deadline: number
  #progress = 0

  constructor(policy: RetryPolicy, signals: readonly (AbortSignal | undefined)[]) {
    this.#policy = policy
    this.#signals = signals
    this.#deadline = performance.now() + policy.budgetMs
  }

  /** Told of every piece that arrived. */
  moved(bytes: number): void {
    this.#progress += bytes
  }

  /** Waits until the next attempt may begin; throws `err` (as a fault) where there is to be none. */
  async after(err: unknown): Promise<void> {
    const failure = asFault(err, 'REGISTRY_UNAVAILABLE')
    if (!failure.retryable) throw failure
    if (this.#progress >= PROGRESS_BYTES) {
      this.#failures = 0
      this.#deadline = performance.now() + this.#policy.budgetMs
    }
    this.#progress = 0
    this.#failures++
    const delayMs = this.#delayMs(failure)
    if (this.#failures > this.#policy.retries || performance.now() + delayMs > this.#deadline)
      throw withAttempts(failure, this.#failures)
    await pause(delayMs, this.#signals)
  }

  #delayMs(failure: Fault): number {
    const ceiling = Math.min(this.#policy.maxDelayMs, this.#policy.baseDelayMs * 2 ** (this.#failures - 1))
    const asked = failure.context['retryAfterMs']
    const jittered = Math.random() * ceiling
    return typeof asked === 'number' ? asked + jittered : jittered
  }
}

/** Runs `attempt` until it succeeds or the policy gives up. */
export async function retrying<T>(
  policy: RetryPolicy,
  signals: readonly (AbortSignal | undefined)[],
  attempt: () => Promise<T>,
): Promise<T> {
  const retry = new Retry(policy, signals)
  for (;;) {
    try {
      return await attempt()
    } catch (err) {
      await retry.after(err)
    }
  }
}

/** Retry-After (RFC 9110 10.2.3): seconds or a date. Undefined when absent or nonsense. */
export function parseRetryAfter(value: string | undefined, nowMs = Date.now()): number | undefined {
  if (value === undefined) return undefined
  if (/^\s*[0-9]{1,9}\s*$/.test(value)) return Number(value) * 1000
  // JavaScript reads "-1" as a date; an HTTP date begins with a day's name.
  const at = /^[A-Za-z]{3,9},? /.test(value) ? Date.parse(value) : NaN
  return Number.isNaN(at) ? undefined : Math.max(0, at - nowMs)
}

async function pause(ms: number, signals: readonly (AbortSignal | undefined)[]): Promise<void> {
  // Not AbortSignal.any: on Node 20 it leaks one entry per call into a signal that lives long.
  const stop = new AbortController()
  const onAbort = (): void => stop.abort()
  for (const signal of signals) {
    if (signal?.aborted === true) stop.abort()
    else signal?.addEventListener('abort', onAbort, { once: true })
  }
  try {
    await sleep(ms, undefined, { signal: stop.signal })
  } catch (err) {
    throw cancelled('the registry', err)
  } finally {
    for (const signal of signals) signal?.removeEventListener('abort', onAbort)
  }
}

function withAttempts(failure: Fault, attempts: number): Fault {
  if (attempts < 2) return failure
  return fault(failure.code, `${failure.message} (${attempts} attempts)`, {
    cause: failure,
    context: { ...failure.context, attempts },
    retryable: failure.retryable,
  })
}
