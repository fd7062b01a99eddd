import { closeSync, openSync } from 'node:fs'
import { hasErrno } from '../common/fault.js'
import { checked, cString, getLibrary } from './library.js'
import { type JobOptions, waitForJob } from './wait.js'

/**
 * Reads on a thread of its own, for files whose bytes come from a daemon: the canary of a mount. The bytes themselves
 * are dropped. A pre-content event names this process as the accessor.
 * @param lengthBytes at most 1 MiB
 * @returns how many bytes were read
 * @throws SYSCALL_FAILED with what open(2) or pread(2) gave (EIO: the read was denied), NATIVE_TIMEOUT
 */
export async function probeRead(
  path: string,
  offset: number,
  lengthBytes: number,
  options: JobOptions,
): Promise<{ bytesRead: number }> {
  const pipeFd = getLibrary().nydus_job_probe_read(cString(path), offset, lengthBytes)
  return { bytesRead: await waitForJob(`read of ${path}`, pipeFd, options) }
}

/**
 * Drops clean, unused pages of the range from the page cache; length 0 means to the end. A page stays that the kernel
 * holds in one piece with pages outside the range.
 * @throws SYSCALL_FAILED: EBADF, ESPIPE
 */
export function dropCache(fd: number, offset = 0, lengthBytes = 0): void {
  checked('posix_fadvise', getLibrary().nydus_drop_cache(fd, offset, lengthBytes), `of descriptor ${fd}`)
}

/** The same for a file by name. */
export function dropFileCache(path: string): void {
  const fd = openSync(path, 'r')
  try {
    dropCache(fd)
  } finally {
    closeSync(fd)
  }
}

/**
 * Reserves disk space for the range; the file grows to hold it.
 * @throws SYSCALL_FAILED: ENOSPC, EOPNOTSUPP
 */
export function allocateSpace(fd: number, offset: number, lengthBytes: number): void {
  const detail = `of ${lengthBytes} bytes at ${offset}`
  checked('fallocate', getLibrary().nydus_fallocate(fd, 0, offset, lengthBytes), detail)
}

const KEEP_SIZE = 1
const PUNCH_HOLE = 2

/**
 * Gives the range's disk space back; it reads as zeros from then on, the size stays.
 * @throws SYSCALL_FAILED: EOPNOTSUPP
 */
export function punchHole(fd: number, offset: number, lengthBytes: number): void {
  const result = getLibrary().nydus_fallocate(fd, KEEP_SIZE | PUNCH_HOLE, offset, lengthBytes)
  checked('fallocate(FALLOC_FL_PUNCH_HOLE)', result, `of ${lengthBytes} bytes at ${offset}`)
}

const SEEK_DATA = 3
const SEEK_HOLE = 4

/** First offset, not below the given one, that holds data; undefined when only a hole follows. */
export function seekData(fd: number, offset: number): number | undefined {
  return seek(fd, offset, SEEK_DATA)
}

/** First offset, not below the given one, that lies in a hole (the file's end counts); undefined past the end. */
export function seekHole(fd: number, offset: number): number | undefined {
  return seek(fd, offset, SEEK_HOLE)
}

function seek(fd: number, offset: number, whence: number): number | undefined {
  const result = Number(getLibrary().nydus_seek(fd, offset, whence))
  try {
    return checked('lseek', result, `of descriptor ${fd} to ${offset}`)
  } catch (err) {
    if (hasErrno(err, 'ENXIO')) return undefined
    throw err
  }
}

/**
 * Which pages of the file's first bytes are in the page cache: a byte a page of 4096, 1 where it is. Maps the file, which
 * raises a pre-content event where it is marked: never for a file that this process serves.
 * @throws SYSCALL_FAILED: EINVAL (length 0), ENODEV (cannot be mapped)
 */
export function readResidentPages(fd: number, lengthBytes: number): Buffer {
  const pages = Buffer.alloc(Math.ceil(lengthBytes / 4096))
  checked(
    'mincore',
    getLibrary().nydus_resident_pages(fd, lengthBytes, pages),
    `of ${lengthBytes} bytes of descriptor ${fd}`,
  )
  // The kernel uses the lowest bit only; the others are undefined.
  for (const [i, value] of pages.entries()) pages[i] = value & 1
  return pages
}

const LOCK_EX = 2
const LOCK_NB = 4

/**
 * Takes the exclusive flock(2) of the open file, which lasts until its last descriptor is closed.
 * @returns false when somebody else has it
 */
export function tryLock(fd: number): boolean {
  try {
    checked('flock', getLibrary().nydus_flock(fd, LOCK_EX | LOCK_NB), `of descriptor ${fd}`)
    return true
  } catch (err) {
    if (hasErrno(err, 'EAGAIN')) return false
    throw err
  }
}

/**
 * Swaps two names in one step; both exist before and after.
 * @throws SYSCALL_FAILED: ENOENT, EXDEV
 */
export function exchangePaths(first: string, second: string): void {
  const result = getLibrary().nydus_exchange(cString(first), cString(second))
  checked('renameat2(RENAME_EXCHANGE)', result, `of ${first} and ${second}`)
}

/**
 * Id of the mount that the path lies on: the first field of its line in /proc/self/mountinfo.
 * @throws SYSCALL_FAILED: ENOENT
 */
export function readMountId(path: string): number {
  const id = Buffer.alloc(8)
  checked('statx', getLibrary().nydus_mount_id(cString(path), id), `of ${path}`)
  return Number(id.readBigUInt64LE(0))
}
