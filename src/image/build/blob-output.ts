import { randomBytes } from 'node:crypto'
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { asFault, hasErrno } from '../../common/fault.js'

/** Where a blob is written to: a stream, for it may be a pipe. */
export interface BlobOutput {
  write(bytes: Uint8Array): Promise<void>
  /** Nothing stands at the target before this. Returns the blob's path. */
  finish(blobId: string): Promise<string>
  /** Leaves nothing behind; does nothing after `finish`. */
  abort(): Promise<void>
}

/** The file `target`, which is replaced; a pipe or a device is written to as it comes. @throws FILE_UNREADABLE */
export async function openBlobFile(target: string): Promise<BlobOutput> {
  const pipe = await isPipe(target)
  return openOutput(pipe ? target : `${target}.${suffix()}`, pipe, () => target)
}

/** A file in `directory` with the name of the blob's id. @throws FILE_UNREADABLE */
export function openBlobDirectory(directory: string): Promise<BlobOutput> {
  return openOutput(path.join(directory, `.blob.${suffix()}`), false, blobId => path.join(directory, blobId))
}

async function openOutput(
  file: string,
  pipe: boolean,
  targetOf: (blobId: string) => string,
): Promise<BlobOutput> {
  const failed = (err: unknown): Error =>
    asFault(err, 'FILE_UNREADABLE', `the blob cannot be written to ${targetOf('')}`)
  let handle: FileHandle
  try {
    handle = await open(file, pipe ? 'w' : 'wx', 0o644)
  } catch (err) {
    throw failed(err)
  }
  let closed = false
  let finished = false
  const close = async (): Promise<void> => {
    if (!closed) await handle.close()
    closed = true
  }
  return {
    write: async bytes => {
      try {
        for (let done = 0; done < bytes.length;) done += (await handle.write(bytes, done)).bytesWritten
      } catch (err) {
        throw failed(err)
      }
    },
    finish: async blobId => {
      const target = targetOf(blobId)
      try {
        await close()
        if (!pipe) await rename(file, target)
      } catch (err) {
        throw failed(err)
      }
      finished = true
      return target
    },
    abort: async () => {
      if (finished) return
      await close()
      if (!pipe) await rm(file, { force: true })
    },
  }
}

async function isPipe(target: string): Promise<boolean> {
  try {
    const facts = await stat(target)
    return !facts.isFile() && !facts.isDirectory()
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return false
    throw asFault(err, 'FILE_UNREADABLE', `the blob cannot be written to ${target}`)
  }
}

function suffix(): string {
  return `${process.pid}.${randomBytes(4).toString('hex')}`
}
