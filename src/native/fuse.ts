import { checked, getLibrary } from './library.js'

/**
 * Joins a freshly opened /dev/fuse to the session of another: one queue of requests, replies on the descriptor that
 * the request was read from.
 * @throws SYSCALL_FAILED: EINVAL, on newer kernels EPERM (no FUSE devices, or a session that is not mounted)
 */
export function cloneFuseDevice(freshFd: number, sessionFd: number): void {
  checked('ioctl(FUSE_DEV_IOC_CLONE)', getLibrary().nydus_fuse_clone(freshFd, sessionFd))
}

/**
 * Registers a local file that the kernel then reads by itself (passthrough, 6.9 and newer).
 * @returns the backing id for the reply to OPEN
 * @throws SYSCALL_FAILED: EPERM, EBADF, ELOOP (stacked file system), EOPNOTSUPP, ENOTTY (older kernel)
 */
export function openFuseBacking(deviceFd: number, fileFd: number): number {
  return checked('ioctl(FUSE_DEV_IOC_BACKING_OPEN)', getLibrary().nydus_fuse_backing_open(deviceFd, fileFd))
}

/**
 * Ends a registration.
 * @throws SYSCALL_FAILED: ENOENT (no such id)
 */
export function closeFuseBacking(deviceFd: number, backingId: number): void {
  checked('ioctl(FUSE_DEV_IOC_BACKING_CLOSE)', getLibrary().nydus_fuse_backing_close(deviceFd, backingId))
}
