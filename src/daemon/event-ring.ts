import { type BackendRead, backendReads } from '../backend/read-events.js'
import type { DaemonEvents } from '../client/api.js'

/** Upstream's bounds, of entries and of bytes. */
const MAX_ERRORS = 500
const MAX_BYTES = 51_200
/** One sentence must not displace all others. */
const MAX_SENTENCE = 1000

/** The last failed reads of backends, as `HTTP date - sentence`. The oldest make room. */
export class EventRing {
  readonly #entries: string[] = []
  #bytes = 0

  /** Listens until the process ends. */
  constructor() {
    backendReads.subscribe(message => this.#onRead(message as BackendRead))
  }

  list(): DaemonEvents {
    return {
      max_errors: MAX_ERRORS,
      total_errors: this.#entries.length,
      max_size: MAX_BYTES,
      total_size: this.#bytes,
      errors: [...this.#entries],
    }
  }

  #onRead({ backend, blobId, offset, length, error, message }: BackendRead): void {
    if (error === undefined || error === 'CANCELLED') return
    this.#add(`${backend}: blob ${blobId}, ${length} bytes at ${offset}: ${message ?? error}`)
  }

  #add(sentence: string): void {
    const entry = `${new Date().toUTCString()} - ${sentence.slice(0, MAX_SENTENCE)}`
    this.#entries.push(entry)
    this.#bytes += Buffer.byteLength(entry)
    while (this.#entries.length > MAX_ERRORS || this.#bytes > MAX_BYTES)
      this.#bytes -= Buffer.byteLength(this.#entries.shift() ?? '')
  }
}
