import type { Findings } from './findings.js'
import type { StormDriver, Target } from './kills.js'

export interface Blow {
  /** What was killed, or `upgrade`. */
  readonly target: Target | 'upgrade'
  /** Milliseconds of the monotonic clock. */
  readonly atMs: number
  /** Questions of the kernel that had no answer right after. */
  readonly unanswered: number
  /** Events that had been answered since the blow before. */
  readonly served: number
}

export interface Quantiles {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface Summary {
  readonly driver: StormDriver
  readonly seed: number
  readonly seconds: number
  /** Blows that left an unanswered event. */
  readonly counted: number
  readonly uncounted: number
  readonly byTarget: Readonly<Record<string, number>>
  readonly unansweredABlow: Quantiles
  readonly servedABlow: Quantiles
  /** Of reads of our readers that lasted over the death of the daemon. */
  readonly stallMs: Quantiles
  /** Of reads that lasted over the death of anything else. */
  readonly otherStallMs: Quantiles
  readonly coldRounds: number
  readonly reads: number
  readonly pages: number
  readonly sums: number
  readonly containers: number
  readonly repeatedCalls: number
  readonly failed: number
  readonly wrong: number
  readonly zero: number
  readonly words: readonly string[]
}

export function summarise(
  { driver, seed }: { driver: StormDriver; seed: number },
  blows: readonly Blow[],
  findings: Findings,
  { seconds, coldRounds }: { seconds: number; coldRounds: number },
): Summary {
  const counted = blows.filter(({ unanswered }) => unanswered > 0)
  const byTarget: Record<string, number> = {}
  for (const { target } of counted) byTarget[target] = (byTarget[target] ?? 0) + 1
  const serverDied = ({ target }: Blow): boolean =>
    target === 'daemon' || target === 'both' || target === 'upgrade'
  const stalls = (over: readonly Blow[]): Quantiles =>
    quantiles(
      findings.slow
        .filter(({ fromMs, toMs }) => over.some(({ atMs }) => fromMs <= atMs && atMs <= toMs))
        .map(({ fromMs, toMs }) => toMs - fromMs),
    )
  const { reads, pages, sums, containers, repeatedCalls, counts, words } = findings
  return {
    driver,
    seed,
    seconds: Math.round(seconds),
    counted: counted.length,
    uncounted: blows.length - counted.length,
    byTarget,
    unansweredABlow: quantiles(counted.map(({ unanswered }) => unanswered)),
    servedABlow: quantiles(blows.map(({ served }) => served)),
    stallMs: stalls(blows.filter(serverDied)),
    otherStallMs: stalls(blows.filter(blow => !serverDied(blow))),
    coldRounds,
    reads,
    pages,
    sums,
    containers,
    repeatedCalls,
    ...counts,
    words,
  }
}

export function quantiles(values: readonly number[]): Quantiles {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (share: number): number =>
    Math.round(sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0)
  return { count: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) }
}

/** The summary in words. */
export function tell(summary: Summary): string {
  const { driver, counted, uncounted, byTarget, stallMs, otherStallMs, unansweredABlow, servedABlow } =
    summary
  const targets = Object.entries(byTarget).map(([target, count]) => `${target} ${count}`)
  const quantilesOf = ({ count, p50, p99, max }: Quantiles): string =>
    `p50 ${p50}, p99 ${p99}, max ${max} (of ${count})`
  return [
    `${driver}: ${counted} blows with an unanswered event (${targets.join(', ')}), ${uncounted} without, in ${summary.seconds} s`,
    `unanswered at a blow: ${quantilesOf(unansweredABlow)}; events answered between two: ${quantilesOf(servedABlow)}`,
    `read: ${summary.reads} reads of ${summary.pages} pages, ${summary.sums} files by sha256sum, ${summary.containers} containers run; the image was cold ${summary.coldRounds} times`,
    `stall of a read over the death of the daemon, ms: ${quantilesOf(stallMs)}`,
    `stall of a read over another death, ms: ${quantilesOf(otherStallMs)}`,
    `calls made again because their server had died: ${summary.repeatedCalls}`,
    `${summary.failed} failed reads, ${summary.wrong} wrong, ${summary.zero} zero pages`,
    ...summary.words.map(word => `  ${word}`),
  ].join('\n')
}
