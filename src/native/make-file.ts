/** What makes files as an image describes them, where Node has no call for it. Paths are bytes. */
import { cBytes, checked, getLibrary } from './library.js'

/**
 * Makes a device, a FIFO or a socket.
 * @param mode - st_mode with the type bits; the umask takes bits away
 * @throws SYSCALL_FAILED: EPERM, EEXIST
 */
export function makeNode(path: Buffer, mode: number, major: number, minor: number): void {
  checked('mknod', getLibrary().nydus_make_node(cBytes(path), mode, major, minor), `of ${path.toString()}`)
}

/**
 * Sets the times of access and modification, of a symbolic link itself where it is one. Node's numbers of seconds have no
 * room for nanoseconds. @throws SYSCALL_FAILED
 */
export function setTimes(path: Buffer, seconds: number, nanoseconds: number): void {
  checked(
    'utimensat',
    getLibrary().nydus_set_times(cBytes(path), seconds, nanoseconds),
    `of ${path.toString()}`,
  )
}
