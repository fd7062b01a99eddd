/** Fetches of an image's layers, a few at a time, lowest first; who unpacks a layer waits for that one alone. */
export class LayerFetches {
  readonly #wanted: readonly number[]
  readonly #atOnce: number
  readonly #fetch: (index: number, signal: AbortSignal) => Promise<void>
  readonly #abort = new AbortController()
  readonly #signal: AbortSignal
  readonly #results = new Map<number, Promise<void>>()
  #failure: unknown

  /** `wanted`: layer indexes in the order of fetching. Nothing is fetched before {@link startFrom}. */
  constructor(
    wanted: readonly number[],
    atOnce: number,
    signal: AbortSignal,
    fetch: (index: number, signal: AbortSignal) => Promise<void>,
  ) {
    this.#wanted = wanted
    this.#atOnce = atOnce
    this.#fetch = fetch
    this.#signal = AbortSignal.any([signal, this.#abort.signal])
  }

  /** Starts with layer `index` and leaves those below alone. Only the first call counts. */
  startFrom(index: number): void {
    if (this.#results.size > 0) return
    const queue: Promise<void>[] = []
    for (const layer of this.#wanted.filter(one => one >= index)) {
      const ahead = queue[queue.length - this.#atOnce] ?? Promise.resolve()
      const result = ahead.then(() => this.#run(layer))
      result.catch(() => undefined)
      queue.push(result)
      this.#results.set(layer, result)
    }
  }

  /** Resolves once the layer is in the content store; rejects with the first failure of any layer. */
  async wait(index: number): Promise<void> {
    await this.#results.get(index)
  }

  /** Stops what is under way; afterwards nothing is written any more. */
  async stop(): Promise<void> {
    this.#abort.abort()
    await Promise.allSettled(this.#results.values())
  }

  async #run(layer: number): Promise<void> {
    try {
      await this.#fetch(layer, this.#signal)
    } catch (err) {
      this.#failure ??= err
      this.#abort.abort()
      throw this.#failure
    }
  }
}
