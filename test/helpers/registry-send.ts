/** How the fault registry puts an answer on the wire, well or badly. */
import type { ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Reply } from './registry-content.js'

export interface SendFault {
  /** The connection is cut before any answer. */
  reset?: boolean
  /** The request is worked on, and the connection cut in place of the answer. */
  loseAnswer?: boolean
  /** The connection is cut after this many bytes of the request's body. */
  cutRequestAfter?: number
  /** The connection is cut after this many bytes of the answer's body. */
  cutAfter?: number
  /** Nothing more comes after this many bytes of the answer's body. */
  stallAfter?: number
  /** The body comes in pieces of so many bytes, one each `everyMs`. */
  trickle?: { bytes: number; everyMs: number }
  /** No Content-Length: the body comes in HTTP chunks. */
  chunked?: boolean
}

const PIECE = 64 << 10

export async function send(
  res: ServerResponse,
  method: string,
  reply: Reply,
  fault: SendFault,
  sent: (bytes: number) => void,
): Promise<void> {
  if (fault.loseAnswer === true) return void res.destroy()
  const headers: Record<string, string> = { ...reply.headers }
  if (fault.chunked !== true) headers['content-length'] ??= String(reply.body.length)
  res.writeHead(reply.status, headers)
  if (method === 'HEAD') return void res.end()
  res.flushHeaders()
  const limit = Math.min(reply.body.length, fault.cutAfter ?? Infinity, fault.stallAfter ?? Infinity)
  const size = fault.trickle?.bytes ?? PIECE
  for (let at = 0; at < limit && !res.destroyed; at += size) {
    const piece = reply.body.subarray(at, Math.min(at + size, limit))
    sent(piece.length)
    if (!res.write(piece)) await drained(res)
    if (fault.trickle) await sleep(fault.trickle.everyMs)
  }
  if (fault.stallAfter !== undefined) return
  if (fault.cutAfter === undefined) return void res.end()
  // What was written must be on its way before the connection is cut.
  await new Promise<void>(resolve => {
    if (!res.write('', () => resolve())) resolve()
  })
  res.socket?.end()
}

function drained(res: ServerResponse): Promise<void> {
  return new Promise(resolve => {
    const done = (): void => {
      res.off('drain', done).off('close', done)
      resolve()
    }
    res.on('drain', done).on('close', done)
  })
}
