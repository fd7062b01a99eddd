/**
 * One answer: status and headers first, then a body for whoever takes it. A short body comes at once, so that an answer
 * which nobody has looked at yet does not hold its connection; a long one waits for its taker.
 */
import type { Dispatcher } from 'undici'
import { asFault, fault, isFault } from '../common/fault.js'
import { safeUrl } from './host.js'
import { cancelled, transportFault } from './transport-errors.js'

export interface ExchangeOptions {
  readonly url: URL
  readonly isHead: boolean
  readonly signal: AbortSignal | undefined
  /** Milliseconds over which a body that trickles counts as stalled; 0 for never. */
  readonly windowMs: number
  /** Why the client was closed; undefined while it is open. */
  readonly closed: () => Error | undefined
  /** Told of each piece of the body when it is used up. */
  readonly used: (piece: Uint8Array) => void
}

/** Who takes a body. Pieces are good for the time of the call alone. */
interface Taker {
  piece(bytes: Uint8Array): void
  end(): void
  fail(err: Error): void
}

/** A body slower than this over a whole silence timeout counts as stalled: a trickle must not hold a reader. */
const MIN_BYTES_PER_WINDOW = 16 << 10
/** A body up to this size is short. */
const SHORT_BYTES = 64 << 10
/** What `pieces` holds for a slow consumer before it stops the sender. */
const MAX_QUEUED_BYTES = 1 << 20

/** A request under way, as undici tells of it. */
export class Exchange implements Dispatcher.DispatchHandler {
  /** @throws REGISTRY_UNAVAILABLE, REGISTRY_TLS, REGISTRY_PLAIN_HTTP, REGISTRY_PROTOCOL, CANCELLED */
  readonly answer: Promise<HttpResponse>
  readonly options: ExchangeOptions
  #resolve: (answer: HttpResponse) => void = () => {}
  #reject: (err: Error) => void = () => {}
  #controller: Dispatcher.DispatchController | undefined
  #taker: Taker | undefined
  /** What came before anybody took it. */
  #early: Uint8Array[] = []
  #earlyBytes = 0
  /** `true` when the body has ended, or why it failed. */
  #outcome: true | Error | undefined
  #resumedMs = 0
  #waitedMs = 0
  #windowBytes = 0

  constructor(options: ExchangeOptions) {
    this.options = options
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    options.signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  get over(): boolean {
    return this.#outcome !== undefined
  }

  /** Lets the body come, to this taker; what already became of it is told at once. */
  take(taker: Taker): void {
    this.#taker = taker
    for (const piece of this.#early.splice(0)) if (!this.#give(taker, piece)) return
    if (this.#outcome === true) taker.end()
    else if (this.#outcome) taker.fail(this.#outcome)
    else this.resume()
  }

  pause(): void {
    this.#controller?.pause()
  }

  resume(): void {
    this.#resumedMs = performance.now()
    this.#controller?.resume()
  }

  /** Ends the connection unless the body has ended. Idempotent. */
  abort(reason: Error): void {
    if (this.over) return
    this.fail(reason)
    this.#controller?.abort(reason)
  }

  fail(err: unknown): void {
    if (this.over) return
    const { url, signal, closed } = this.options
    const failure = closed() ?? transportFault(err, safeUrl(url), signal)
    this.#finish(failure)
    this.#reject(failure)
    this.#taker?.fail(failure)
  }

  // What undici calls.

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#outcome instanceof Error) controller.abort(this.#outcome)
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: Headers): void {
    if (status < 200) return
    const answer = new HttpResponse(this, status, headers)
    if ((answer.contentLength ?? 0) > SHORT_BYTES) controller.pause()
    this.#resumedMs = performance.now()
    this.#resolve(answer)
  }

  onResponseData(_controller: Dispatcher.DispatchController, piece: Uint8Array): void {
    if (this.over) return
    const now = performance.now()
    this.#waitedMs += now - this.#resumedMs
    this.#resumedMs = now
    this.#windowBytes += piece.length
    const { windowMs } = this.options
    if (windowMs > 0 && this.#waitedMs > windowMs) {
      if (this.#windowBytes < MIN_BYTES_PER_WINDOW) return this.abort(this.#stalled())
      this.#waitedMs = 0
      this.#windowBytes = 0
    }
    if (this.#taker) {
      this.#give(this.#taker, piece)
    } else {
      this.#early.push(Buffer.from(piece))
      this.#earlyBytes += piece.length
      if (this.#earlyBytes > SHORT_BYTES) this.pause()
    }
    this.options.used(piece)
  }

  onResponseEnd(): void {
    if (this.over) return
    this.#finish(true)
    this.#taker?.end()
  }

  onResponseError(_controller: Dispatcher.DispatchController, err: Error): void {
    this.fail(err)
  }

  /** False when the taker cannot go on. */
  #give(taker: Taker, piece: Uint8Array): boolean {
    try {
      taker.piece(piece)
      return true
    } catch (err) {
      const failure = asFault(err)
      if (this.over) taker.fail(failure)
      else this.abort(failure)
      return false
    }
  }

  #finish(outcome: true | Error): void {
    this.#outcome = outcome
    this.options.signal?.removeEventListener('abort', this.#onAbort)
  }

  readonly #onAbort = (): void => {
    const { url, signal } = this.options
    this.abort(cancelled(safeUrl(url), signal?.reason))
  }

  #stalled(): Error {
    const sent = `${safeUrl(this.options.url)} sent only ${this.#windowBytes} bytes`
    return fault('REGISTRY_UNAVAILABLE', `${sent} in ${Math.round(this.#waitedMs)} ms`)
  }
}

type Headers = Readonly<Record<string, string | string[] | undefined>>

export class HttpResponse {
  readonly url: URL
  readonly status: number
  readonly #exchange: Exchange
  readonly #headers: Headers

  constructor(exchange: Exchange, status: number, headers: Headers) {
    this.#exchange = exchange
    this.url = exchange.options.url
    this.status = status
    this.#headers = headers
  }

  header(name: string): string | undefined {
    const value = this.#headers[name]
    return Array.isArray(value) ? value.join(', ') : value
  }

  /** Content-Length in bytes; undefined when it is not told or is no number. */
  get contentLength(): number | undefined {
    const text = this.header('content-length')
    return text !== undefined && /^[0-9]{1,15}$/.test(text) ? Number(text) : undefined
  }

  /**
   * Gives the body to `take` as it comes, without a copy: a piece is good for the time of the call alone. `false` from
   * `take` wants no more of it, which ends the connection; what it throws ends both.
   * @throws REGISTRY_UNAVAILABLE when the body is cut short, is silent or trickles; CANCELLED
   */
  drain(take: (piece: Uint8Array) => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      let wanted = true
      const piece = (bytes: Uint8Array): void => {
        wanted &&= take(bytes)
        if (wanted) return
        resolve()
        this.discardNow()
      }
      this.#exchange.take({ piece, end: resolve, fail: reject })
    })
  }

  /**
   * The body piece by piece, each a copy; a consumer that is slow slows the sender, and stopping early ends the
   * connection. @throws REGISTRY_UNAVAILABLE when it is cut short, is silent or trickles; CANCELLED
   */
  async *pieces(): AsyncGenerator<Uint8Array, void, undefined> {
    const exchange = this.#exchange
    const queue: Uint8Array[] = []
    let queuedBytes = 0
    let failure: Error | undefined
    let wake = (): void => {}
    exchange.take({
      piece: bytes => {
        queue.push(Buffer.from(bytes))
        queuedBytes += bytes.length
        if (queuedBytes >= MAX_QUEUED_BYTES) exchange.pause()
        wake()
      },
      end: () => wake(),
      fail: err => {
        failure = err
        wake()
      },
    })
    try {
      for (;;) {
        const piece = queue.shift()
        if (piece) {
          yield piece
          queuedBytes -= piece.length
        } else if (failure) {
          throw failure
        } else if (exchange.over) {
          return
        } else {
          const woken = new Promise<void>(resolve => (wake = resolve))
          exchange.resume()
          await woken
        }
      }
    } finally {
      this.discardNow()
    }
  }

  /** The whole body. @throws REGISTRY_PROTOCOL when it is longer than `limitBytes` */
  async bytes(limitBytes: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = []
    let length = 0
    await this.drain(piece => {
      length += piece.length
      if (length > limitBytes) {
        throw fault('REGISTRY_PROTOCOL', `${safeUrl(this.url)} answered with more than ${limitBytes} bytes`, {
          retryable: false,
        })
      }
      pieces.push(Buffer.from(piece))
      return true
    })
    return Buffer.concat(pieces, length)
  }

  /** Reads away a short body, so that the connection can be used again; ends the connection for a long one. */
  async discard(): Promise<void> {
    // The length that a HEAD tells is not that of its body.
    const length = this.#exchange.options.isHead ? 0 : (this.contentLength ?? 0)
    if (length > SHORT_BYTES) return this.discardNow()
    let readBytes = 0
    try {
      await this.drain(piece => (readBytes += piece.length) <= SHORT_BYTES)
    } catch (err) {
      if (isFault(err, 'CANCELLED')) throw err
      // What the body of an unwanted answer does is nobody's concern.
    }
  }

  /** Ends the connection, unless the body has come in full. */
  discardNow(): void {
    this.#exchange.abort(fault('CANCELLED', `the answer of ${safeUrl(this.url)} is not wanted`))
  }
}
