import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { hasErrno } from '../common/fault.js'

const SYSFS_EROFS = '/sys/fs/erofs'
const SYSFS_BDI = '/sys/class/bdi'
/** Entries of /sys/fs/erofs that are no superblocks. */
const NOT_SUPERBLOCKS = new Set(['features'])

/**
 * How far the kernel reads ahead on an image's mount, set on purpose rather than left to the distribution: it is also
 * the size of one fanotify event and of one FUSE or cachefiles READ of a sequential reader. A page fault reads a whole
 * window around it, and each window that reaches into another chunk pulls it in: 256 KiB fetch 3 % more at the start of
 * a program than 128 KiB do, and halve the events of whoever reads in a row: a cold read rises from 0.43–0.50 to
 * 0.46–0.51 of the rate at which curl fetches the same bytes.
 */
const READ_AHEAD_KB = 256

/** Names of all EROFS superblocks alive, mounted or kept by an overlay above. */
export function listSuperblocks(): Set<string> {
  return new Set(namesIn(SYSFS_EROFS).filter(name => !NOT_SUPERBLOCKS.has(name)))
}

export function listBackingDevices(): Set<string> {
  return new Set(namesIn(SYSFS_BDI))
}

/** What is new, without devices that are named by number. More than one where somebody else mounted at the same time. */
export function listNew(before: Set<string>, after: Set<string>): string[] {
  return [...after].filter(name => !before.has(name) && !/^\d+:\d+$/.test(name))
}

/** False when the kernel has no such knob; never fatal. */
export function setReadAhead(backingDevice: string): boolean {
  try {
    writeFileSync(join(SYSFS_BDI, backingDevice, 'read_ahead_kb'), String(READ_AHEAD_KB))
    return true
  } catch (err) {
    if (hasErrno(err, 'ENOENT') || hasErrno(err, 'EACCES')) return false
    throw err
  }
}

/**
 * Resolves when all of these superblocks are gone: containers keep one alive through their overlay long after umount
 * returned. sysfs gives no event for it, so it is looked at, less and less often, up to every two seconds.
 */
export async function superblocksGone(names: readonly string[], signal: AbortSignal): Promise<void> {
  const alive = (): boolean => names.some(name => existsSync(join(SYSFS_EROFS, name)))
  for (let waitMs = 50; alive(); waitMs = Math.min(waitMs * 2, 2000)) {
    await delay(waitMs, undefined, { signal, ref: false })
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return []
    throw err
  }
}
