import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { asFault, hasErrno } from '../../common/fault.js'

/** Where a command streams its result to. */
export interface StreamOutput {
  write(bytes: Uint8Array): Promise<void>
  /** Puts a file in place; nothing stands there before. */
  finish(): Promise<void>
  /** Leaves nothing of a file behind; does nothing after `finish`. */
  abort(): Promise<void>
}

/**
 * A file, which is written beside its place and replaces what stands there; `-` is the standard output, and a pipe or a
 * device is written to as it comes. @throws FILE_UNREADABLE
 */
export async function openStreamOutput(target: string): Promise<StreamOutput> {
  if (target === '-') return standardOutput()
  const direct = await isSpecial(target)
  const file = direct ? target : `${target}.${process.pid}.new`
  const failed = (err: unknown): Error => asFault(err, 'FILE_UNREADABLE', `${target} cannot be written`)
  let handle: FileHandle
  try {
    handle = await open(file, direct ? 'w' : 'wx', 0o644)
  } catch (err) {
    throw failed(err)
  }
  let ended = false
  return {
    async write(bytes) {
      try {
        for (let done = 0; done < bytes.length;) done += (await handle.write(bytes, done)).bytesWritten
      } catch (err) {
        throw failed(err)
      }
    },
    async finish() {
      try {
        if (!direct) await handle.sync()
        await handle.close()
        if (!direct) await rename(file, target)
        ended = true
      } catch (err) {
        throw failed(err)
      }
    },
    async abort() {
      if (ended) return
      ended = true
      await handle.close().catch(() => undefined)
      if (!direct) await rm(file, { force: true })
    },
  }
}

/** As a stream, for it may be a socket, which has no name to open it by. */
function standardOutput(): StreamOutput {
  const done = (): Promise<void> => Promise.resolve()
  const write = (bytes: Uint8Array): Promise<void> =>
    new Promise((resolve, reject) => {
      process.stdout.write(bytes, err => {
        if (err) reject(asFault(err, 'FILE_UNREADABLE', 'the standard output cannot be written'))
        else resolve()
      })
    })
  return { write, finish: done, abort: done }
}

async function isSpecial(target: string): Promise<boolean> {
  try {
    const facts = await stat(target)
    return !facts.isFile() && !facts.isDirectory()
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return false
    throw asFault(err, 'FILE_UNREADABLE', `${target} cannot be written`)
  }
}
