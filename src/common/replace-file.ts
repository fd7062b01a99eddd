import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { asFault } from './fault.js'

/**
 * Puts a file in place as a whole: it is written beside its path, flushed and renamed, so that the path never shows half
 * of it. @throws FILE_UNREADABLE
 */
export function replaceFile(path: string, bytes: Uint8Array, mode = 0o644): void {
  replaceFileWith(path, [bytes], mode)
}

/** The same with bytes that come in pieces. @throws FILE_UNREADABLE, and what `pieces` throws */
export function replaceFileWith(path: string, pieces: Iterable<Uint8Array>, mode = 0o644): void {
  const beside = `${path}.${process.pid}.tmp`
  try {
    const fd = openSync(beside, 'wx', mode)
    try {
      for (const bytes of pieces)
        for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done, bytes.length - done)
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    renameSync(beside, path)
  } catch (err) {
    rmSync(beside, { force: true })
    throw asFault(err, 'FILE_UNREADABLE', `${path} cannot be written`)
  }
}
