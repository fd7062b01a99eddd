import { openSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { hasErrno } from '../common/fault.js'
import { mapFile } from '../native/mapped-memory.js'
import { encodeJournal, type JournalRegion, parseJournal, REGION_BYTES } from './request-journal.js'

/** A journal that is open as long as the process lives. */
export interface OpenJournal {
  readonly fd: number
  /** One for each thread. */
  readonly regions: readonly JournalRegion[]
  /** How many requests a predecessor has left; they are in the slots. */
  readonly left: number
}

/**
 * Puts a journal in the place of that of a predecessor. What that one left is in it before it is in its place, so that it
 * is not lost with another daemon either.
 * @param inherit - false: the mount is a new one, whose requests have the same numbers
 * @throws SYSCALL_FAILED; whatever node:fs says of the file (ENOSPC)
 */
export function openJournal(path: string, threads: number, inherit: boolean): OpenJournal {
  const left = inherit ? parseJournal(readJournal(path)) : []
  const fresh = `${path}.new`
  // Every byte is written, so that it has its space.
  writeFileSync(fresh, encodeJournal(threads, left), { mode: 0o600 })
  const fd = openSync(fresh, 'r+')
  const regions = Array.from({ length: threads }, (_, thread) => {
    const fileOffset = thread * REGION_BYTES
    return { ...mapFile(fd, fileOffset, REGION_BYTES), fileOffset, fd }
  })
  renameSync(fresh, path)
  return { fd, regions, left: left.length }
}

function readJournal(path: string): Uint8Array {
  try {
    return readFileSync(path)
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return new Uint8Array()
    throw err
  }
}
