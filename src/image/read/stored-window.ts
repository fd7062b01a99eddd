import type { BlobReader } from '../../backend/reader.js'

/** A read this close behind the last one goes on with it; the bytes between are fetched and dropped. */
const GAP_BYTES = 64 * 1024
const MIN_AHEAD_BYTES = 128 * 1024
const MAX_AHEAD_BYTES = 2 * 1024 * 1024

/**
 * Reads stored ranges of one blob. A reader that goes forward gets more than it asked for, twice as much each time, so
 * that a blob of small chunks is not fetched in a request for each. Holds one window of at most 2 MiB, or of one range
 * that is larger. Not for concurrent calls.
 */
export class StoredWindow {
  readonly #reader: BlobReader
  readonly #endBytes: number
  #start = 0
  #bytes: Uint8Array = new Uint8Array(0)
  #aheadBytes = 0

  /** @param endBytes - where the chunk data of the blob ends: nothing is read ahead beyond it */
  constructor(reader: BlobReader, endBytes: number) {
    this.#reader = reader
    this.#endBytes = endBytes
  }

  /** The result shares memory with the window and stays as it is. @throws what the backend throws */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const end = this.#start + this.#bytes.length
    if (offset < this.#start || offset + length > end) {
      const forward = offset >= this.#start && offset <= end + GAP_BYTES
      const doubled = Math.min(Math.max(2 * this.#aheadBytes, MIN_AHEAD_BYTES), MAX_AHEAD_BYTES)
      this.#aheadBytes = forward ? doubled : 0
      const wanted = Math.max(length, Math.min(this.#aheadBytes, this.#endBytes - offset))
      this.#bytes = await this.#reader.read(offset, wanted, { kind: 'demand' })
      this.#start = offset
    }
    const at = offset - this.#start
    return this.#bytes.subarray(at, at + length)
  }

  /** Forgets the window's bytes. */
  drop(): void {
    this.#start += this.#bytes.length
    this.#bytes = new Uint8Array(0)
  }
}
