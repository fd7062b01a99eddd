import { addressOf } from './foreign.js'
import { checked, getLibrary } from './library.js'

/**
 * Tells the kernel that a READ request's range is written, or, with nothing written, that it failed.
 * @param objectFd the anonymous descriptor that came with the object's OPEN
 * @throws SYSCALL_FAILED: EINVAL (no such READ of this object)
 */
export function completeRead(objectFd: number, messageId: number): void {
  checked(
    'ioctl(CACHEFILES_IOC_READ_COMPLETE)',
    getLibrary().nydus_cachefiles_read_complete(objectFd, messageId),
    `of message ${messageId}`,
  )
}

/** What O_DIRECT and cachefiles want of address, offset and length. */
export const ALIGNMENT = 4096

/**
 * A zeroed buffer whose first byte lies at a multiple of 4096: what `fs.write` needs for O_DIRECT files and cachefiles
 * objects. It stays aligned when its ArrayBuffer is transferred to a worker.
 */
export function allocateAligned(sizeBytes: number): Buffer {
  const whole = Buffer.alloc(sizeBytes + ALIGNMENT)
  const beyond = Number(addressOf(whole) % BigInt(ALIGNMENT))
  const start = beyond === 0 ? 0 : ALIGNMENT - beyond
  return whole.subarray(start, start + sizeBytes)
}
