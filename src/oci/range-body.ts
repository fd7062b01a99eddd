/** What a server sent for a byte range, held against what was asked (RFC 9110 14). */
import { fault, type Fault } from '../common/fault.js'
import type { HttpResponse } from './http-response.js'

/** A server that ignores Range sends the blob from its start: this much is read and thrown away, no more. */
const MAX_SKIP_BYTES = 1 << 20

export interface ContentRange {
  readonly start: number
  /** Inclusive. */
  readonly end: number
  readonly total: number | undefined
}

/** `bytes 0-9/100`; undefined for anything else. */
export function parseContentRange(value: string | undefined): ContentRange | undefined {
  const match = /^bytes ([0-9]{1,15})-([0-9]{1,15})\/([0-9]{1,15}|\*)$/.exec(value?.trim() ?? '')
  if (!match) return undefined
  const [start, end] = [Number(match[1]), Number(match[2])]
  const total = match[3] === '*' ? undefined : Number(match[3])
  if (end < start || (total !== undefined && end >= total)) return undefined
  return { start, end, total }
}

/** `length` undefined reads to the end. */
export function rangeHeader(offset: number, length: number | undefined): string {
  return `bytes=${offset}-${length === undefined ? '' : offset + length - 1}`
}

/** The blob's whole size as an answer tells it; undefined when it does not. */
export function totalOf(response: HttpResponse): number | undefined {
  if (response.status === 206) return parseContentRange(response.header('content-range'))?.total
  return response.contentLength
}

/** What a 200 or 206 answer brings of a range that was asked for: tells its pieces apart from what is skipped. */
export class RangeBody {
  readonly #subject: string
  readonly #isPartial: boolean
  /** First wanted byte, and the first beyond; undefined to the end of whatever comes. */
  readonly #from: number
  readonly #end: number | undefined
  /** More may come than is wanted. */
  readonly #isLonger: boolean
  /** Where the next piece begins. */
  #at: number

  /**
   * At most `length` bytes from `offset`; fewer when the server gives fewer at a time. `subject` is the blob, in words.
   * @throws REGISTRY_PROTOCOL (not retryable) for another range than asked, or a 200 whose skipped part is too long
   */
  constructor(response: HttpResponse, offset: number, length: number | undefined, subject: string) {
    this.#subject = subject
    this.#isPartial = response.status === 206
    this.#from = offset
    const encoding = response.header('content-encoding') ?? 'identity'
    if (encoding !== 'identity')
      throw protocol(
        `${subject}: sent with content-encoding ${encoding.slice(0, 40)}, which was not asked for`,
      )
    if (this.#isPartial) {
      const header = response.header('content-range')
      const range = parseContentRange(header)
      const fits = range?.start === offset && (length === undefined || range.end < offset + length)
      if (range === undefined || !fits) {
        const got = header?.slice(0, 80) ?? 'no Content-Range'
        throw protocol(`${subject}: asked for ${rangeHeader(offset, length)} and got ${got}`)
      }
      this.#at = offset
      this.#end = range.end + 1
      this.#isLonger = false
      return
    }
    const total = response.contentLength
    this.#at = 0
    this.#end = length === undefined ? total : offset + length
    this.#isLonger = this.#end !== total
    if (offset > MAX_SKIP_BYTES)
      throw protocol(
        `${subject}: the registry ignores Range and sends the blob from its start: use one that serves ranges`,
      )
    if (total !== undefined && this.#end !== undefined && this.#end > total)
      throw protocol(`${subject}: has ${total} bytes only, ${rangeHeader(offset, length)} is outside of it`)
  }

  /** True when everything wanted has come and more follows, as after a 200: it need not be waited for. */
  get enough(): boolean {
    return this.#isLonger && this.#end !== undefined && this.#at >= this.#end
  }

  /** The wanted part of the next piece, maybe empty. @throws REGISTRY_PROTOCOL for a 206 that is longer than told */
  take(piece: Uint8Array): Uint8Array {
    const at = this.#at
    this.#at += piece.length
    if (this.#isPartial && this.#end !== undefined && this.#at > this.#end) {
      const told = this.#end - this.#from
      throw protocol(`${this.#subject}: body is longer than the ${told} bytes of its Content-Range`)
    }
    const from = Math.max(0, this.#from - at)
    const to = this.#end === undefined ? piece.length : Math.min(piece.length, this.#end - at)
    return piece.subarray(Math.min(from, to), to)
  }

  /** Told that the body has ended. @throws REGISTRY_UNAVAILABLE (retryable) for one that ends early */
  ended(): void {
    if (this.#end === undefined || this.#at >= this.#end) return
    const at = Math.max(this.#at, this.#from)
    throw fault('REGISTRY_UNAVAILABLE', `${this.#subject}: body ended at byte ${at} of ${this.#end}`)
  }
}

function protocol(message: string): Fault {
  return fault('REGISTRY_PROTOCOL', message, { retryable: false })
}
