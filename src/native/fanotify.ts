import { constants, writeSync } from 'node:fs'
import { hasErrno } from '../common/fault.js'
import { encodeDenyErrnoProbe } from './fanotify-events.js'
import { checked, cString, getLibrary } from './library.js'

/** Flags of fanotify_init(2); close-on-exec is always set. */
export const FAN_INIT = {
  NONBLOCK: 0x2,
  CLASS_NOTIFY: 0x0,
  CLASS_PRE_CONTENT: 0x8,
  UNLIMITED_QUEUE: 0x10,
  UNLIMITED_MARKS: 0x20,
  REPORT_TID: 0x100,
  REPORT_FD_ERROR: 0x2000,
} as const

/**
 * Opens a fanotify group.
 * @param flags of {@link FAN_INIT}
 * @param eventFlags how the events' descriptors are opened, e.g. `constants.O_RDWR`; large files always work
 * @throws SYSCALL_FAILED: EINVAL (no permission events in this kernel), EPERM, EMFILE (too many groups)
 */
export function openFanotifyGroup(flags: number, eventFlags: number = constants.O_RDONLY): number {
  return checked('fanotify_init', getLibrary().nydus_fanotify_init(flags, eventFlags))
}

const MARK_ADD = 0x1
const MARK_REMOVE = 0x2
const MARK_FLUSH = 0x80
const AT_FDCWD = -100

/** What to mark: a path, or an open descriptor's own file. */
export type MarkTarget = string | number

/**
 * Watches a file for the events of the mask (`FAN` of fanotify-events). Adding again adds to the mask.
 * @throws SYSCALL_FAILED: EINVAL (kernel before 6.14, or not a pre-content group), EOPNOTSUPP (file system without
 * pre-content events), ENOSPC (mark limit), ENOENT
 */
export function addMark(group: number, target: MarkTarget, mask: number): void {
  mark(group, MARK_ADD, target, mask)
}

/**
 * Stops watching; an event that is pending still needs its answer.
 * @throws SYSCALL_FAILED: ENOENT (not marked)
 */
export function removeMark(group: number, target: MarkTarget, mask: number): void {
  mark(group, MARK_REMOVE, target, mask)
}

/** Removes every inode mark of the group. */
export function flushMarks(group: number): void {
  mark(group, MARK_FLUSH, '/', 0)
}

function mark(group: number, flags: number, target: MarkTarget, mask: number): void {
  const [dirfd, path] = typeof target === 'number' ? [target, null] : [AT_FDCWD, cString(target)]
  const result = getLibrary().nydus_fanotify_mark(group, flags, mask, dirfd, path)
  checked('fanotify_mark', result, `of ${typeof target === 'number' ? `descriptor ${target}` : target}`)
}

/**
 * Whether this pre-content group takes denials with an errno (6.14 and newer); it disturbs no event.
 * @throws SYSCALL_FAILED or a system error when the descriptor is no such group
 */
export function probeDenyErrno(group: number): boolean {
  const message = encodeDenyErrnoProbe()
  try {
    return writeSync(group, message) === message.length
  } catch (err) {
    if (hasErrno(err, 'EINVAL')) return false
    throw err
  }
}
