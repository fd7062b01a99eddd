import type { BlobLayout } from './layout.js'

/** Readers told apart at once in one blob; the one that was quiet longest is forgotten. */
const MAX_STREAMS = 8
/** Chunks that a reader must have passed in a row before anything is read ahead of it. */
const MIN_RUN_CHUNKS = 3
/** Least that is read ahead once a reader is sequential: small chunks cost round trips, not bytes. */
const MIN_WINDOW = 128 * 1024

interface Stream {
  /** Where the run began, as a chunk and as an offset. */
  firstChunk: number
  start: number
  /** The last chunk that the reader was seen in. */
  chunk: number
  /** First chunk that nothing was planned for; at least `chunk + 1`. */
  ahead: number
}

/** Chunks to fetch ahead: [first, end). The reader must be heard of again when it arrives at `marker`, one of them. */
export interface ReadaheadPlan {
  readonly first: number
  readonly end: number
  readonly marker: number
}

/**
 * Detects sequential readers of one blob and says what to fetch ahead of them.
 *
 * Bytes that nobody reads are what lazy loading is to avoid, so nothing is planned for scattered reads, and the window
 * is never more than half of what the reader has passed in a row (or MIN_WINDOW), up to `maxWindow`.
 * Reads of ready chunks may go unseen: a reader that reappears anywhere in what was planned for it goes on.
 */
export class Readahead {
  readonly #layout: BlobLayout
  readonly #maxWindow: number
  /** Quiet longest first. */
  readonly #streams: Stream[] = []

  constructor(layout: BlobLayout, maxWindowBytes: number) {
    this.#layout = layout
    this.#maxWindow = maxWindowBytes
  }

  /** Told of each question of a waiting reader; [first, end) are the chunks that it touches, at least one. */
  observe(offset: number, first: number, end: number): ReadaheadPlan | undefined {
    const last = end - 1
    const stream = this.#take(first, last)
    if (last <= stream.chunk) return undefined
    // A sequential reader enters a chunk at its first byte.
    if (first === last && offset > this.#layout.chunkRange(last).offset) {
      if (last >= stream.ahead) Object.assign(stream, this.#begin(last))
      return undefined
    }
    stream.chunk = last
    stream.ahead = Math.max(stream.ahead, last + 1)
    return this.#plan(stream)
  }

  #plan(stream: Stream): ReadaheadPlan | undefined {
    if (stream.chunk - stream.firstChunk + 1 < MIN_RUN_CHUNKS) return undefined
    const here = this.#endOf(stream.chunk)
    const window = Math.min(Math.max((here - stream.start) / 2, MIN_WINDOW), this.#maxWindow)
    // The next plan is made when half of this one is used up, so that it arrives in time.
    if (this.#endOf(stream.ahead - 1) - here > window / 2) return undefined
    const first = stream.ahead
    while (stream.ahead < this.#layout.chunkCount && this.#endOf(stream.ahead) - here <= window)
      stream.ahead++
    const end = stream.ahead
    if (end === first) return undefined
    let marker = first
    while (this.#endOf(end - 1) - this.#endOf(marker) > window / 2) marker++
    return { first, end, marker }
  }

  /** The stream that this read continues, or a fresh one; now the last of the list. */
  #take(first: number, last: number): Stream {
    const at = this.#streams.findIndex(s => first >= s.chunk && first <= s.ahead)
    const stream = (at < 0 ? undefined : this.#streams.splice(at, 1)[0]) ?? this.#begin(last)
    if (this.#streams.length >= MAX_STREAMS) this.#streams.shift()
    this.#streams.push(stream)
    return stream
  }

  #begin(chunk: number): Stream {
    return { firstChunk: chunk, start: this.#layout.chunkRange(chunk).offset, chunk, ahead: chunk + 1 }
  }

  #endOf(chunk: number): number {
    const { offset, length } = this.#layout.chunkRange(chunk)
    return offset + length
  }
}
