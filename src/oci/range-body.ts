/** What a server sent for a byte range, held against what was asked (RFC 9110 14). */
import { fault, type Fault } from '../common/fault.js'
import type { HttpResponse } from './http-client.js'

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

/**
 * The bytes from `offset` of a 200 or 206 answer, at most `length`; fewer when the server gives fewer at a time.
 * @throws REGISTRY_PROTOCOL (not retryable) for another range than asked, a body longer than told, or a 200 whose
 * skipped part is too long; REGISTRY_UNAVAILABLE (retryable) for a body that ends early
 */
export async function* rangePieces(
  response: HttpResponse,
  offset: number,
  length: number | undefined,
  subject: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const encoding = response.header('content-encoding') ?? 'identity'
  if (encoding !== 'identity') {
    response.discardNow()
    throw protocol(`${subject}: sent with content-encoding ${encoding.slice(0, 40)}, which was not asked for`)
  }
  if (response.status === 206) yield* partial(response, offset, length, subject)
  else yield* whole(response, offset, length, subject)
}

async function* partial(
  response: HttpResponse,
  offset: number,
  length: number | undefined,
  subject: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const range = parseContentRange(response.header('content-range'))
  const fits = range?.start === offset && (length === undefined || range.end < offset + length)
  if (range === undefined || !fits) {
    response.discardNow()
    const got = response.header('content-range')?.slice(0, 80) ?? 'no Content-Range'
    throw protocol(`${subject}: asked for ${rangeHeader(offset, length)} and got ${got}`)
  }
  const expected = range.end - range.start + 1
  let done = 0
  for await (const piece of response.pieces()) {
    done += piece.length
    if (done > expected)
      throw protocol(`${subject}: body is longer than the ${expected} bytes of its Content-Range`)
    yield piece
  }
  if (done < expected) throw cutShort(subject, offset + done, offset + expected)
}

async function* whole(
  response: HttpResponse,
  offset: number,
  length: number | undefined,
  subject: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const total = response.contentLength
  const end = length === undefined ? total : offset + length
  if (offset > MAX_SKIP_BYTES || (total !== undefined && end !== undefined && end > total)) {
    response.discardNow()
    throw protocol(
      offset > MAX_SKIP_BYTES
        ? `${subject}: the registry ignores Range and sends the blob from its start: use one that serves ranges`
        : `${subject}: has ${total} bytes only, ${rangeHeader(offset, length)} is outside of it`,
    )
  }
  let at = 0
  for await (const piece of response.pieces()) {
    const from = Math.max(0, offset - at)
    const to = end === undefined ? piece.length : Math.min(piece.length, end - at)
    at += piece.length
    if (from < to) yield piece.subarray(from, to)
    if (length !== undefined && end !== undefined && at >= end) return
  }
  if (end !== undefined && at < end) throw cutShort(subject, at, end)
}

function protocol(message: string): Fault {
  return fault('REGISTRY_PROTOCOL', message, { retryable: false })
}

function cutShort(subject: string, at: number, end: number): Fault {
  return fault('REGISTRY_UNAVAILABLE', `${subject}: body ended at byte ${at} of ${end}`)
}
