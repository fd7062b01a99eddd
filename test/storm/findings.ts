/** What the readers of a storm have seen. */
export class Findings {
  reads = 0
  pages = 0
  sums = 0
  containers = 0
  /** Calls of the tools that failed because their server had just been killed, and were made again. */
  repeatedCalls = 0
  /** Reads of our readers that took long: milliseconds of the monotonic clock. */
  readonly slow: { readonly fromMs: number; readonly toMs: number }[] = []
  readonly counts = { failed: 0, wrong: 0, zero: 0 }
  /** The first few of each, in words. */
  readonly words: string[] = []

  failed(words: string): void {
    this.#note('failed', words)
  }

  wrong(words: string): void {
    this.#note('wrong', words)
  }

  zero(words: string): void {
    this.#note('zero', words)
  }

  get clean(): boolean {
    const { failed, wrong, zero } = this.counts
    return failed + wrong + zero === 0
  }

  #note(kind: 'failed' | 'wrong' | 'zero', words: string): void {
    if (++this.counts[kind] <= 5) this.words.push(`${new Date().toISOString()} ${kind}: ${words}`)
  }
}
