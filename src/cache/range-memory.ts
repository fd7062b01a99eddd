/**
 * Memory for ranges on their way into cache files, used over and over: a fresh buffer for each costs the kernel a
 * cleared page for every 4 KiB, and V8 a look at its whole heap for every 64 MiB.
 */

/** Less is left to the allocator, which is quick with it. */
const MIN_BYTES = 128 * 1024
const IDLE_MS = 5_000

export class RangeMemory {
  readonly #maxFreeBytes: number
  /** Sizes are powers of two; given back longest ago first. */
  #free: ArrayBuffer[] = []
  #freeBytes = 0
  #idle: NodeJS.Timeout | undefined

  /** @param maxFreeBytes bound of what is kept while nobody uses it */
  constructor(maxFreeBytes: number) {
    this.#maxFreeBytes = maxFreeBytes
  }

  /** `length` bytes of whatever contents. */
  take(length: number): Uint8Array {
    if (length < MIN_BYTES) return Buffer.allocUnsafeSlow(length)
    const size = 2 ** Math.ceil(Math.log2(length))
    const at = this.#free.findLastIndex(memory => memory.byteLength === size)
    const kept = at < 0 ? undefined : this.#free.splice(at, 1)[0]
    if (kept) this.#freeBytes -= size
    return kept ? Buffer.from(kept, 0, length) : Buffer.allocUnsafeSlow(size).subarray(0, length)
  }

  /** What `take` gave, when nobody reads or writes it any more. */
  giveBack(bytes: Uint8Array): void {
    if (bytes.length < MIN_BYTES) return
    const memory = bytes.buffer as ArrayBuffer
    this.#free.push(memory)
    this.#freeBytes += memory.byteLength
    while (this.#freeBytes > this.#maxFreeBytes) this.#freeBytes -= this.#free.shift()?.byteLength ?? 0
    if (this.#idle) this.#idle.refresh()
    else this.#idle = setTimeout(() => this.#drop(), IDLE_MS).unref()
  }

  #drop(): void {
    this.#idle = undefined
    this.#free = []
    this.#freeBytes = 0
  }
}
