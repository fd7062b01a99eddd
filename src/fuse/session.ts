/** The beginning of a FUSE mount: device, mount(2), INIT. */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { fault, hasErrno } from '../common/fault.js'
import { MS, mount, unmount } from '../native/mount.js'
import { encodeInitReply, negotiate, parseInit, readUnique, type Session } from './init.js'
import { checkMountpoint, findConnection } from './mountpoint.js'
import { REQUEST_BYTES, REQUEST_HEADER } from './protocol.js'

const DEVICE = '/dev/fuse'
const MOUNT_TIMEOUT_MS = 10_000

export interface OpenSession {
  /** Absolute and real. */
  readonly mountpoint: string
  readonly fd: number
  readonly session: Session
  readonly connection: number
}

/**
 * Mounts and agrees with the kernel on what is used of the protocol. Requests wait from here on.
 * @throws FUSE_UNAVAILABLE, MOUNTPOINT_INVALID, MOUNTPOINT_IN_USE, MOUNT_FAILED, DRIVER_PROTOCOL, NATIVE_TIMEOUT
 */
export async function openSession(givenMountpoint: string): Promise<OpenSession> {
  const mountpoint = await checkMountpoint(givenMountpoint)
  const fd = openDevice()
  try {
    await mountFuse(mountpoint, fd)
    try {
      const session = shakeHands(fd)
      const connection = findConnection(mountpoint)
      if (connection === undefined)
        throw fault('MOUNT_FAILED', `${mountpoint} was unmounted while it was mounted: start again`)
      return { mountpoint, fd, session, connection }
    } catch (err) {
      await unmount(mountpoint, { lazy: true, timeoutMs: MOUNT_TIMEOUT_MS })
      throw err
    }
  } catch (err) {
    closeSync(fd)
    throw err
  }
}

/** Lazily: what is in use stays until it is let go of. @throws MOUNT_FAILED */
export async function closeMount(mountpoint: string): Promise<void> {
  try {
    await unmount(mountpoint, { lazy: true, timeoutMs: MOUNT_TIMEOUT_MS })
  } catch (err) {
    // EINVAL: nothing is mounted there any more.
    if (hasErrno(err, 'EINVAL')) return
    throw fault('MOUNT_FAILED', `${mountpoint} cannot be unmounted: run umount -l ${mountpoint}`, {
      cause: err,
    })
  }
}

function openDevice(): number {
  try {
    return openSync(DEVICE, constants.O_RDWR)
  } catch (err) {
    const sentence = hasErrno(err, 'ENOENT')
      ? `there is no ${DEVICE}: load the module fuse, or give the container the device`
      : hasErrno(err, 'EPERM') || hasErrno(err, 'EACCES')
        ? `${DEVICE} may not be opened: run as root, and allow the container the device 10:229`
        : `${DEVICE} cannot be opened: load the module fuse`
    throw fault('FUSE_UNAVAILABLE', sentence, { cause: err })
  }
}

async function mountFuse(target: string, fd: number): Promise<void> {
  const uid = process.geteuid?.() ?? 0
  const gid = process.getegid?.() ?? 0
  const data = `default_permissions,allow_other,fd=${fd},rootmode=40000,user_id=${uid},group_id=${gid}`
  const flags = MS.RDONLY | MS.NOSUID | MS.NODEV | MS.NOATIME
  try {
    await mount({ source: 'rafs', target, type: 'fuse', flags, data, timeoutMs: MOUNT_TIMEOUT_MS })
  } catch (err) {
    if (hasErrno(err, 'EPERM'))
      throw fault('FUSE_UNAVAILABLE', `${target} may not be mounted on: run as root with CAP_SYS_ADMIN`, {
        cause: err,
      })
    if (hasErrno(err, 'ENODEV'))
      throw fault('FUSE_UNAVAILABLE', 'this kernel has no FUSE: load the module fuse', { cause: err })
    throw fault('MOUNT_FAILED', `FUSE cannot be mounted on ${target}: see the kernel's log`, { cause: err })
  }
}

/** The kernel has queued INIT before mount(2) returns: the read does not wait. */
function shakeHands(fd: number): Session {
  const buffer = Buffer.alloc(REQUEST_BYTES)
  const message = buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, null))
  const request = parseInit(message.subarray(REQUEST_HEADER))
  const session = negotiate(request)
  writeSync(fd, encodeInitReply(readUnique(message), request, session))
  return session
}
