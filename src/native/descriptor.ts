import { hasErrno } from '../common/fault.js'
import { checked, getLibrary } from './library.js'

/**
 * A duplicate (close-on-exec) with the lowest free number that is not below `lowest`.
 * @throws SYSCALL_FAILED: EBADF, EMFILE, EINVAL (`lowest` above the limit of open files)
 */
export function duplicateDescriptor(fd: number, lowest = 0): number {
  return checked('fcntl(F_DUPFD_CLOEXEC)', getLibrary().nydus_dup_above(fd, lowest), `of ${fd}`)
}

/**
 * Makes `target` a duplicate (close-on-exec) of `fd`; what it was before is closed silently.
 * @throws SYSCALL_FAILED: EBADF, EINVAL (both are the same)
 */
export function duplicateOnto(fd: number, target: number): void {
  checked('dup3', getLibrary().nydus_dup_onto(fd, target), `of ${fd} onto ${target}`)
}

/**
 * Sets whether the descriptor is closed when the process executes another program.
 * @throws SYSCALL_FAILED: EBADF
 */
export function setCloseOnExec(fd: number, closeOnExec: boolean): void {
  checked('fcntl(F_SETFD)', getLibrary().nydus_cloexec(fd, closeOnExec ? 1 : 0), `of ${fd}`)
}

/** Whether the descriptor is closed on exec; undefined when it is not open at all. */
export function getCloseOnExec(fd: number): boolean | undefined {
  try {
    return checked('fcntl(F_GETFD)', getLibrary().nydus_cloexec(fd, -1), `of ${fd}`) === 1
  } catch (err) {
    if (hasErrno(err, 'EBADF')) return undefined
    throw err
  }
}

export interface OpenFileLimits {
  readonly soft: number
  readonly hard: number
}

/** RLIMIT_NOFILE: how many descriptors this process may have. */
export function getOpenFileLimits(): OpenFileLimits {
  const limits = Buffer.alloc(16)
  checked('getrlimit(RLIMIT_NOFILE)', getLibrary().nydus_get_open_files(limits))
  return { soft: Number(limits.readBigUInt64LE(0)), hard: Number(limits.readBigUInt64LE(8)) }
}

/**
 * Sets RLIMIT_NOFILE.
 * @throws SYSCALL_FAILED: EPERM (above the hard limit without privilege, or above fs.nr_open), EINVAL (soft > hard)
 */
export function setOpenFileLimits(limits: OpenFileLimits): void {
  const bytes = Buffer.alloc(16)
  bytes.writeBigUInt64LE(BigInt(limits.soft), 0)
  bytes.writeBigUInt64LE(BigInt(limits.hard), 8)
  const detail = `to ${limits.soft} and ${limits.hard}`
  checked('setrlimit(RLIMIT_NOFILE)', getLibrary().nydus_set_open_files(bytes), detail)
}
