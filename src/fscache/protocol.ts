/**
 * Messages of the cachefiles on-demand device, and its commands: pure.
 *
 * Follows the kernel's Documentation/filesystems/caching/cachefiles.rst, on-demand read section, and
 * include/uapi/linux/cachefiles.h. Integers are in host order: little-endian on every host in use.
 */
import { fault } from '../common/fault.js'

export type CachefilesMessage =
  | {
      readonly op: 'open'
      readonly id: number
      readonly objectId: number
      readonly fd: number
      /** The volume key without the leading `erofs,`: the domain, or the fsid of a mount without one. */
      readonly domainId: string
      /** The fsid for a bootstrap, the device tag (blob id) for a blob. */
      readonly cookie: string
    }
  | { readonly op: 'close'; readonly id: number; readonly objectId: number }
  | {
      readonly op: 'read'
      readonly id: number
      readonly objectId: number
      readonly offset: number
      readonly length: number
    }

/** CACHEFILES_MSG_MAX_SIZE: no message is longer, and each read(2) yields exactly one. */
export const MESSAGE_MAX_BYTES = 1024

const HEADER = 16
const OPEN = 0
const CLOSE = 1
const READ = 2
const VOLUME_PREFIX = 'erofs,'

/** Parses what one read(2) of the device returned. @throws DRIVER_PROTOCOL */
export function parseMessage(bytes: Buffer): CachefilesMessage {
  if (bytes.length < HEADER) throw malformed(`${bytes.length} bytes are less than a header`)
  const id = bytes.readUInt32LE(0)
  const opcode = bytes.readUInt32LE(4)
  const length = bytes.readUInt32LE(8)
  const objectId = bytes.readUInt32LE(12)
  if (length !== bytes.length) throw malformed(`length field ${length}, but ${bytes.length} bytes came`)
  const payload = bytes.subarray(HEADER)
  switch (opcode) {
    case OPEN:
      return { op: 'open', id, objectId, ...parseOpen(payload) }
    case CLOSE:
      return { op: 'close', id, objectId }
    case READ: {
      if (payload.length < 16) throw malformed('READ without offset and length')
      const offset = Number(payload.readBigUInt64LE(0))
      const count = Number(payload.readBigUInt64LE(8))
      return { op: 'read', id, objectId, offset, length: count }
    }
    default:
      throw malformed(`unknown opcode ${opcode}`)
  }
}

function parseOpen(payload: Buffer): { fd: number; domainId: string; cookie: string } {
  if (payload.length < 16) throw malformed('OPEN without its fixed part')
  const volumeSize = payload.readUInt32LE(0)
  const cookieSize = payload.readUInt32LE(4)
  const fd = payload.readUInt32LE(8)
  if (16 + volumeSize + cookieSize > payload.length) throw malformed('OPEN with keys beyond its end')
  const volume = payload
    .subarray(16, 16 + volumeSize)
    .toString('utf8')
    .replace(/\0+$/, '')
  const cookie = payload.subarray(16 + volumeSize, 16 + volumeSize + cookieSize).toString('utf8')
  const domainId = volume.startsWith(VOLUME_PREFIX) ? volume.slice(VOLUME_PREFIX.length) : volume
  return { fd, domainId, cookie }
}

/** The answer to an OPEN: the object's size in bytes, or a negative errno. */
export function openReply(id: number, sizeOrErrno: number): string {
  return `copen ${id},${sizeOrErrno}`
}

function malformed(detail: string): Error {
  return fault('DRIVER_PROTOCOL', `cachefiles sent a message that cannot be read: ${detail}`)
}
