/** Where a FUSE mount goes, and what the kernel says of one that is there. Nothing here asks the mounted file system. */
import { writeFileSync } from 'node:fs'
import { realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import { fault, hasErrno } from '../common/fault.js'
import { findFuseMount } from '../native/mount-table.js'

const CONNECTIONS = '/sys/fs/fuse/connections'
const LOOK_TIMEOUT_MS = 5000

/**
 * The real path of a directory that a FUSE file system may be mounted on.
 * @throws MOUNTPOINT_INVALID, MOUNTPOINT_IN_USE
 */
export async function checkMountpoint(given: string): Promise<string> {
  const wanted = path.resolve(given)
  // The table is asked before the path: a FUSE mount whose daemon hangs answers nobody.
  refuseFuse(wanted)
  const real = await inTime(wanted, realpath(wanted))
  refuseFuse(real)
  const { isDirectory } = await inTime(
    wanted,
    stat(real).then(stats => ({ isDirectory: stats.isDirectory() })),
  )
  if (!isDirectory)
    throw fault('MOUNTPOINT_INVALID', `${wanted} is no directory: name one that exists and is empty`)
  return real
}

function refuseFuse(mountpoint: string): void {
  const entry = findFuseMount(mountpoint)
  if (!entry) return
  throw fault(
    'MOUNTPOINT_IN_USE',
    `a FUSE file system (${entry.source}) is mounted on ${mountpoint} already: stop its daemon and run umount, or use another directory`,
  )
}

/** A path that lies on a hung network file system never answers. */
async function inTime<T>(mountpoint: string, asked: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    const sentence = `${mountpoint} does not answer: see what is mounted on the way to it`
    timer = setTimeout(() => reject(fault('MOUNTPOINT_INVALID', sentence)), LOOK_TIMEOUT_MS)
  })
  try {
    return await Promise.race([asked, late])
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('MOUNTPOINT_INVALID', `there is no directory ${mountpoint}: create it`, { cause: err })
    if (hasErrno(err, 'ENOTCONN'))
      throw fault('MOUNTPOINT_IN_USE', `a dead FUSE mount is in the way of ${mountpoint}: run umount`, {
        cause: err,
      })
    throw err
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Number of the connection of a FUSE mount: the minor of its device, whose major is 0. Undefined when none is there.
 */
export function findConnection(mountpoint: string): number | undefined {
  const entry = findFuseMount(mountpoint)
  return entry && Number(entry.device.replace(/^0:/, ''))
}

/** @returns false when the kernel has no such knob */
export function setReadAhead(connection: number, kib: number): boolean {
  return writeKnob(`/sys/class/bdi/0:${connection}/read_ahead_kb`, String(kib))
}

/** Asks a connection for something by its file of that name. @returns false when the kernel has none */
export function pokeConnection(connection: number, knob: 'resend' | 'flush'): boolean {
  return writeKnob(`${CONNECTIONS}/${connection}/${knob}`, '1')
}

function writeKnob(file: string, value: string): boolean {
  try {
    writeFileSync(file, value, { flag: 'r+' })
    return true
  } catch (err) {
    if (['ENOENT', 'EACCES', 'EROFS', 'EINVAL', 'EPERM'].some(name => hasErrno(err, name))) return false
    throw err
  }
}
