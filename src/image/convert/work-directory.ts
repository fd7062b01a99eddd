/**
 * Where a conversion keeps what it has done, so that it goes on from there when it was interrupted. A directory belongs
 * to one process; that of a process which died, or which gave up and may try again, is taken over.
 */
import { createHash } from 'node:crypto'
import { readlinkSync } from 'node:fs'
import { mkdir, readFile, readdir, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { asFault, hasErrno } from '../../common/fault.js'
import type { UploadSession } from '../../oci/blob-uploader.js'

const PREFIX = 'nydusify-'

export class WorkDirectory {
  readonly path: string
  /** Set when the parent was made for this one. */
  readonly #madeParent: boolean
  readonly #key: string

  private constructor(directory: string, key: string, madeParent: boolean) {
    this.path = directory
    this.#key = key
    this.#madeParent = madeParent
  }

  /**
   * The directory for what `subject` describes, in `parent`: that of an interrupted run where there is one.
   * @throws FILE_UNREADABLE
   */
  static async open(parent: string, subject: unknown): Promise<WorkDirectory> {
    const key = createHash('sha256').update(JSON.stringify(subject)).digest('hex').slice(0, 16)
    try {
      const made = await mkdir(parent, { recursive: true })
      const own = path.join(parent, `${PREFIX}${key}-${owner(process.pid)}`)
      if (!(await takeOver(parent, key, own))) await mkdir(own, { mode: 0o700 })
      return new WorkDirectory(own, key, made !== undefined)
    } catch (err) {
      throw asFault(err, 'FILE_UNREADABLE', `the work directory ${parent} cannot be written`)
    }
  }

  file(name: string): string {
    return path.join(this.path, name)
  }

  /** The bytes of a whole file; undefined when there is none. */
  async read(name: string): Promise<Buffer | undefined> {
    return readFile(this.file(name)).catch((err: unknown) => {
      if (hasErrno(err, 'ENOENT')) return undefined
      throw asFault(err, 'FILE_UNREADABLE', `${this.file(name)} cannot be read`)
    })
  }

  /** Writes a file that is there whole or not at all. */
  async write(name: string, bytes: Uint8Array | string): Promise<void> {
    const beside = this.file(`${name}.partial`)
    await writeFile(beside, bytes)
    await rename(beside, this.file(name))
  }

  async remove(name: string): Promise<void> {
    await rm(this.file(name), { force: true })
  }

  /** Bytes of a file; undefined when there is none. */
  async sizeOf(name: string): Promise<number | undefined> {
    return stat(this.file(name)).then(
      ({ size }) => size,
      () => undefined,
    )
  }

  /** A note of an upload, in a file. */
  session(name: string): UploadSession {
    return {
      read: async () => (await this.read(name))?.toString('utf8'),
      write: location => (location === undefined ? this.remove(name) : this.write(name, location)),
    }
  }

  /** Leaves everything for the next run. */
  async keep(): Promise<string> {
    const free = path.join(path.dirname(this.path), `${PREFIX}${this.#key}`)
    try {
      await rename(this.path, free)
      return free
    } catch {
      // Another run has left one: this one is taken over by the id of its process.
      return this.path
    }
  }

  async close(): Promise<void> {
    await rm(this.path, { recursive: true, force: true })
    // Another run may use it meanwhile.
    if (this.#madeParent) await rmdir(path.dirname(this.path)).catch(() => undefined)
  }
}

/** Renames an abandoned directory of the key to `own`; whoever comes first has it. */
async function takeOver(parent: string, key: string, own: string): Promise<boolean> {
  const names = (await readdir(parent)).filter(name => name.startsWith(PREFIX + key))
  for (const name of names.filter(name => isAbandoned(name.slice((PREFIX + key).length)))) {
    try {
      await rename(path.join(parent, name), own)
      return true
    } catch (err) {
      if (!hasErrno(err, 'ENOENT')) throw err
    }
  }
  return false
}

/** Process ids mean something in their own namespace only. */
function owner(pid: number): string {
  return `${/[0-9]+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? ''}-${pid}`
}

function isAbandoned(suffix: string): boolean {
  if (suffix === '') return true
  const pid = Number(/-([0-9]+)$/.exec(suffix)?.[1])
  if (suffix !== `-${owner(pid)}` || pid === process.pid) return false
  try {
    process.kill(pid, 0)
    return false
  } catch (err) {
    return hasErrno(err, 'ESRCH')
  }
}
