import { checked, cString, getLibrary } from './library.js'

/**
 * Tells the service manager something (sd_notify(3)): `READY=1`, or `FDSTORE=1\nFDNAME=…` with descriptors to keep.
 * @param socketPath `$NOTIFY_SOCKET`; a leading `@` means an abstract name
 * @throws SYSCALL_FAILED: ENOENT, ECONNREFUSED (nobody listens), EAGAIN (its queue is full), EINVAL (path too long)
 */
export function notifyServiceManager(socketPath: string, message: string, fds: readonly number[] = []): void {
  const numbers = Buffer.alloc(fds.length * 4)
  fds.forEach((fd, i) => numbers.writeInt32LE(fd, i * 4))
  const result = getLibrary().nydus_notify(cString(socketPath), cString(message), numbers, fds.length)
  checked('notification', result, `of ${socketPath}`)
}
