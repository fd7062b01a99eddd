import { randomBytes } from 'node:crypto'
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { asFault, hasErrno } from './fault.js'

/** A file whose bytes come one piece after the other: all of it stands at its place in the end, or nothing. */
export class FileOutput {
  readonly #handle: FileHandle
  readonly #target: string
  /** Where the bytes go until the end; undefined for a pipe or a device, which is written to as they come. */
  readonly #beside: string | undefined
  readonly #failure: string
  #open = true
  #finished = false

  private constructor(handle: FileHandle, target: string, beside: string | undefined, failure: string) {
    this.#handle = handle
    this.#target = target
    this.#beside = beside
    this.#failure = failure
  }

  /**
   * @param target - a file, which is replaced, or a pipe or a device
   * @param failure - how a fault begins
   * @throws FILE_UNREADABLE
   */
  static async open(target: string, failure = `${target} cannot be written`): Promise<FileOutput> {
    try {
      const special = await isSpecial(target)
      const beside = special ? undefined : `${target}.${process.pid}.${randomBytes(4).toString('hex')}`
      const handle = await open(beside ?? target, special ? 'w' : 'wx', 0o644)
      return new FileOutput(handle, target, beside, failure)
    } catch (err) {
      throw asFault(err, 'FILE_UNREADABLE', failure)
    }
  }

  /** @throws FILE_UNREADABLE */
  async write(bytes: Uint8Array): Promise<void> {
    await this.#try(async () => {
      for (let done = 0; done < bytes.length;) done += (await this.#handle.write(bytes, done)).bytesWritten
    })
  }

  /** Waits until what was written to a file is on the disk. @throws FILE_UNREADABLE */
  async flush(): Promise<void> {
    if (this.#beside !== undefined) await this.#try(() => this.#handle.sync())
  }

  /** Puts a file in place, which may be another one than it was opened for. @throws FILE_UNREADABLE */
  async finish(target = this.#target): Promise<void> {
    const beside = this.#beside
    await this.#try(async () => {
      await this.#close()
      if (beside !== undefined) await rename(beside, target)
    })
    this.#finished = true
  }

  /** Leaves nothing of a file behind; does nothing after `finish`. */
  async abort(): Promise<void> {
    if (this.#finished) return
    await this.#close()
    if (this.#beside !== undefined) await rm(this.#beside, { force: true })
  }

  async #close(): Promise<void> {
    if (!this.#open) return
    this.#open = false
    await this.#handle.close()
  }

  async #try(action: () => Promise<void>): Promise<void> {
    try {
      await action()
    } catch (err) {
      throw asFault(err, 'FILE_UNREADABLE', this.#failure)
    }
  }
}

async function isSpecial(target: string): Promise<boolean> {
  try {
    const facts = await stat(target)
    return !facts.isFile() && !facts.isDirectory()
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return false
    throw err
  }
}
