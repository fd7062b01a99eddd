import {
  INIT_FLAG_BITS,
  INIT_REPLY_SIZE,
  INIT_REQUEST_MIN,
  type InitFlag,
  MAX_PAGES,
  MAX_WRITE_BYTES,
  PROTOCOL,
  REPLY_HEADER,
  REQUEST_HEADER,
} from './protocol.js'
import { fault } from '../common/fault.js'

/** Requests that the kernel may have under way without anybody waiting: reads ahead, above all. */
const MAX_BACKGROUND = 128

/** What the kernel and this server agreed upon; kept for a successor, who sees no INIT. */
export interface Session {
  readonly minor: number
  readonly flags: ReadonlySet<InitFlag>
}

/** The kernel's side of INIT. */
export interface InitRequest {
  readonly major: number
  readonly minor: number
  readonly maxReadahead: number
  /** Bits 0 to 63. */
  readonly flags: bigint
}

/** @param body - what follows the request's header. @throws DRIVER_PROTOCOL when it is too short */
export function parseInit(body: Buffer): InitRequest {
  if (body.length < INIT_REQUEST_MIN)
    throw fault('DRIVER_PROTOCOL', `INIT has ${body.length} bytes: report it with the kernel's version`)
  const view = new DataView(body.buffer, body.byteOffset, body.length)
  const low = BigInt(view.getUint32(12, LITTLE))
  const extended = (low >> BigInt(INIT_FLAG_BITS.INIT_EXT)) & 1n
  const high = extended && body.length >= 20 ? BigInt(view.getUint32(16, LITTLE)) : 0n
  return {
    major: view.getUint32(0, LITTLE),
    minor: view.getUint32(4, LITTLE),
    maxReadahead: view.getUint32(8, LITTLE),
    flags: low | (high << 32n),
  }
}

/** Takes of what the kernel offers all that this server has a use for. @throws DRIVER_PROTOCOL for an old kernel */
export function negotiate(request: InitRequest): Session {
  if (request.major !== PROTOCOL.major || request.minor < 31) {
    const version = `${request.major}.${request.minor}`
    throw fault(
      'DRIVER_PROTOCOL',
      `the kernel speaks FUSE ${version}: 7.31 (Linux 5.2) and newer are supported`,
    )
  }
  const flags = (Object.keys(INIT_FLAG_BITS) as InitFlag[]).filter(
    flag => (request.flags >> BigInt(INIT_FLAG_BITS[flag])) & 1n,
  )
  return { minor: Math.min(request.minor, PROTOCOL.minor), flags: new Set(flags) }
}

/** The answer to INIT, header included. */
export function encodeInitReply(unique: bigint, request: InitRequest, session: Session): Buffer {
  const reply = Buffer.alloc(REPLY_HEADER + INIT_REPLY_SIZE)
  const view = new DataView(reply.buffer, reply.byteOffset, reply.length)
  view.setUint32(0, reply.length, LITTLE)
  view.setBigUint64(8, unique, LITTLE)
  let flags = 0n
  for (const flag of session.flags) flags |= 1n << BigInt(INIT_FLAG_BITS[flag])
  const at = REPLY_HEADER
  view.setUint32(at, PROTOCOL.major, LITTLE)
  view.setUint32(at + 4, session.minor, LITTLE)
  view.setUint32(at + 8, request.maxReadahead, LITTLE)
  view.setUint32(at + 12, Number(flags & 0xffff_ffffn), LITTLE)
  view.setUint16(at + 16, MAX_BACKGROUND, LITTLE)
  view.setUint16(at + 18, (MAX_BACKGROUND * 3) / 4, LITTLE)
  view.setUint32(at + 20, MAX_WRITE_BYTES, LITTLE)
  view.setUint32(at + 24, 1, LITTLE)
  view.setUint16(at + 28, MAX_PAGES, LITTLE)
  view.setUint32(at + 32, Number(flags >> 32n), LITTLE)
  return reply
}

/** The session as the numbers of a state, and back. */
export function sessionToNumbers(session: Session): Record<string, number> {
  const numbers: Record<string, number> = { minor: session.minor }
  for (const flag of session.flags) numbers[flag] = 1
  return numbers
}

export function sessionFromNumbers(numbers: Readonly<Record<string, number>>): Session {
  const flags = (Object.keys(INIT_FLAG_BITS) as InitFlag[]).filter(flag => numbers[flag] === 1)
  return { minor: numbers['minor'] ?? PROTOCOL.minor, flags: new Set(flags) }
}

/** The unique number of a request. */
export function readUnique(request: Buffer): bigint {
  return new DataView(request.buffer, request.byteOffset, REQUEST_HEADER).getBigUint64(8, LITTLE)
}

const LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1
