/**
 * fanotify's records as bytes (fanotify(7); kernel reference: include/uapi/linux/fanotify.h). Pure, so that workers
 * may use it.
 */
import { fault } from '../common/fault.js'
import { errnoNumber } from './errno.js'

/** Event bits of a mask. */
export const FAN = {
  ACCESS: 0x1,
  MODIFY: 0x2,
  CLOSE_WRITE: 0x8,
  OPEN: 0x20,
  Q_OVERFLOW: 0x4000,
  OPEN_PERM: 0x1_0000,
  ACCESS_PERM: 0x2_0000,
  PRE_ACCESS: 0x10_0000,
  EVENT_ON_CHILD: 0x800_0000,
} as const

export interface FanotifyEvent {
  /** The accessed file, opened for us: answer, then close. -1 for an overflow; below that a negated errno. */
  readonly fd: number
  /** Of {@link FAN}. */
  readonly mask: number
  /** The accessor's process; 0 when it is not in our pid namespace. */
  readonly pid: number
  /** First byte asked for. */
  readonly offset: number
  /** Bytes asked for, 0 included; `Number.MAX_SAFE_INTEGER` when the kernel names no range: the whole file. */
  readonly length: number
}

/** A read of the group takes at least this much: an event that does not fit is refused with EINVAL. */
export const EVENT_BUFFER_SIZE = 4096

const METADATA_SIZE = 24
const METADATA_VERSION = 3
const INFO_TYPE_RANGE = 6
const RANGE_SIZE = 24

/**
 * The events in the first `length` bytes of what was read from a group.
 * @throws DRIVER_PROTOCOL for bytes that no kernel writes; then no event of this read was served
 */
export function parseFanotifyEvents(buffer: Buffer, length: number): FanotifyEvent[] {
  const events: FanotifyEvent[] = []
  const end = Math.min(length, buffer.length)
  for (let at = 0; at < end;) {
    if (end - at < METADATA_SIZE) throw malformed('event', at, 'cut short')
    const eventLength = buffer.readUInt32LE(at)
    const metadataLength = buffer.readUInt16LE(at + 6)
    if (buffer[at + 4] !== METADATA_VERSION) throw malformed('vers', at + 4, `${buffer[at + 4]}, not 3`)
    if (metadataLength < METADATA_SIZE) throw malformed('metadata_len', at + 6, `${metadataLength}, below 24`)
    if (eventLength < metadataLength || eventLength > end - at)
      throw malformed('event_len', at, `${eventLength} does not fit`)
    events.push({
      mask: buffer.readUInt32LE(at + 8),
      fd: buffer.readInt32LE(at + 16),
      pid: buffer.readInt32LE(at + 20),
      ...parseRange(buffer, at + metadataLength, at + eventLength),
    })
    at += eventLength
  }
  return events
}

/** Looks for the range among the information records in [start, end); records of other types are stepped over. */
function parseRange(buffer: Buffer, start: number, end: number): { offset: number; length: number } {
  for (let at = start; at < end;) {
    const size = end - at < 4 ? 0 : buffer.readUInt16LE(at + 2)
    if (size < 4 || size > end - at) throw malformed('information record', at, `length ${size} does not fit`)
    if (buffer[at] === INFO_TYPE_RANGE && size >= RANGE_SIZE)
      return { offset: readSafe(buffer, at + 8), length: readSafe(buffer, at + 16) }
    at += size
  }
  return { offset: 0, length: Number.MAX_SAFE_INTEGER }
}

/** No file reaches 2^53 bytes: what lies beyond means "to the end". */
function readSafe(buffer: Buffer, at: number): number {
  return Math.min(Number(buffer.readBigUInt64LE(at)), Number.MAX_SAFE_INTEGER)
}

function malformed(field: string, offset: number, what: string): Error {
  return fault(
    'DRIVER_PROTOCOL',
    `fanotify event is malformed, ${field} at byte ${offset}: ${what}: see whether this kernel is supported`,
    { context: { field, offset } },
  )
}

/** The errno names that a denial may carry, on 6.14 and newer; readers of EROFS get EIO whichever is given. */
export type DenyErrno = 'EPERM' | 'EIO' | 'EAGAIN' | 'EBUSY' | 'ETXTBSY' | 'ENOSPC' | 'EDQUOT'

export const RESPONSE_SIZE = 8
const ALLOW = 1
const DENY = 2
const INFO = 0x20

/**
 * The answer that lets an access through. Exactly one answer a write: of a longer write the kernel takes 8 bytes.
 * @param into at least 8 bytes, so that a loop can reuse its buffer
 */
export function encodeAllow(fd: number, into: Buffer = Buffer.alloc(RESPONSE_SIZE)): Buffer {
  into.writeInt32LE(fd, 0)
  into.writeUInt32LE(ALLOW, 4)
  return into
}

/** The answer that fails an access; without an errno (any kernel) the accessor gets EPERM. */
export function encodeDeny(
  fd: number,
  errno?: DenyErrno,
  into: Buffer = Buffer.alloc(RESPONSE_SIZE),
): Buffer {
  into.writeInt32LE(fd, 0)
  into.writeUInt32LE(denial(errno), 4)
  return into
}

/**
 * A message that answers no event, yet is refused by a kernel that does not know denials with an errno: written to a
 * pre-content group it returns its own length, or fails with EINVAL.
 */
export function encodeDenyErrnoProbe(): Buffer {
  const message = Buffer.alloc(24)
  message.writeInt32LE(-1, 0)
  message.writeUInt32LE((denial('EIO') | INFO) >>> 0, 4)
  // An audit record: type 1, 16 bytes, rule 0, trust of subject and object unknown.
  message.writeUInt8(1, 8)
  message.writeUInt16LE(16, 10)
  message.writeUInt32LE(2, 16)
  message.writeUInt32LE(2, 20)
  return message
}

function denial(errno: DenyErrno | undefined): number {
  return errno === undefined ? DENY : (DENY | (errnoNumber(errno) << 24)) >>> 0
}
