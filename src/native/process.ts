import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import { fault, hasErrno } from '../common/fault.js'
import { checked, getLibrary } from './library.js'
import { POLL, startPoller } from './poller.js'

/** Of a kernel without CONFIG_KCMP. */
const ENOSYS = constants.errno.ENOSYS

/**
 * A descriptor that stands for the process, immune to reuse of its pid.
 * @throws SYSCALL_FAILED: ESRCH
 */
export function openPidfd(pid: number): number {
  return checked('pidfd_open', getLibrary().nydus_pidfd_open(pid), `of process ${pid}`)
}

/**
 * Takes a duplicate (close-on-exec) of another process's descriptor, by its number there.
 * @throws SYSCALL_FAILED: EBADF (it has none of that number), ESRCH (it is gone), EPERM (no ptrace right)
 */
export function takeDescriptor(pidfd: number, fd: number): number {
  return checked('pidfd_getfd', getLibrary().nydus_pidfd_getfd(pidfd, fd), `of descriptor ${fd}`)
}

/**
 * Whether a descriptor of the process and one of ours are the same open file; undefined where the kernel cannot tell.
 * @throws SYSCALL_FAILED: EBADF, ESRCH
 */
export function isSameFile(pid: number, fd: number, ownFd: number): boolean | undefined {
  const result = getLibrary().nydus_same_file(pid, fd, ownFd)
  if (result === -ENOSYS) return undefined
  return checked('kcmp', result, `of descriptor ${fd} of process ${pid} and our ${ownFd}`) === 1
}

/**
 * Sends a signal to the process of a pidfd.
 * @throws SYSCALL_FAILED: ESRCH (it is gone)
 */
export function sendSignal(pidfd: number, signal: NodeJS.Signals): void {
  checked(
    'pidfd_send_signal',
    getLibrary().nydus_pidfd_send_signal(pidfd, constants.signals[signal]),
    `of ${signal}`,
  )
}

/**
 * Resolves when the process of a pidfd has ended; it need not be a child. The pidfd stays open.
 * @throws CANCELLED when aborted
 */
export async function waitForExit(pidfd: number, options: { signal?: AbortSignal } = {}): Promise<void> {
  const { signal } = options
  const cancelled = () => fault('CANCELLED', 'waiting for a process to end was cancelled')
  if (signal?.aborted === true) throw cancelled()
  let settle: (failure?: Error) => void
  const settled = new Promise<void>((resolve, reject) => {
    settle = failure => (failure ? reject(failure) : resolve())
  })
  const poller = startPoller(pidfd, () => settle())
  const abort = () => settle(cancelled())
  signal?.addEventListener('abort', abort)
  poller.arm(POLL.IN)
  try {
    await settled
  } finally {
    signal?.removeEventListener('abort', abort)
    await poller.stop()
  }
}

/** Whether a process with that pid exists (a zombie counts). */
export function isAlive(pid: number): boolean {
  try {
    closeSync(openPidfd(pid))
    return true
  } catch (err) {
    if (hasErrno(err, 'ESRCH')) return false
    throw err
  }
}

/**
 * Ends the process at once, threads that are blocked in the kernel included, which keep `process.exit()` from returning.
 * No exit handler runs and nothing is flushed: what must be written is written before.
 */
export function endProcess(status: number): never {
  getLibrary().nydus_end_process(status)
  throw fault('INTERNAL', 'the process outlived its end: report this')
}
