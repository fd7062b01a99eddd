import { closeSync, constants, fstatSync, ftruncateSync, openSync, statSync, write } from 'node:fs'
import { promisify } from 'node:util'
import { fault, type Fault, hasErrno, isFault } from '../common/fault.js'

const writeBytes = promisify(write)

/** Rounding of the address space: the EROFS block. */
const BLOCK = 4096

export interface CacheFileOptions {
  path: string
  sizeBytes: number
  /** A descriptor of the same file that is open since before the file was marked; taken over. */
  fillFd?: number
  /** Called before a file without its old contents takes this name: what any map says of it is void. */
  forget: () => void
}

/** The sparse file of one blob, and the one descriptor that it is written through. */
export class CacheFile {
  readonly path: string
  readonly fd: number
  readonly dev: number
  readonly ino: number
  #last = Promise.resolve()

  private constructor(path: string, fd: number, dev: number, ino: number) {
    this.path = path
    this.fd = fd
    this.dev = dev
    this.ino = ino
  }

  /** Opens the file, created sparse at its full size where it is missing. @throws CACHE_IO */
  static open(options: CacheFileOptions): CacheFile {
    const { path, fillFd } = options
    try {
      const fd = fillFd ?? openFresh(options)
      const { dev, ino } = fillFd === undefined ? fstatSync(fd) : checkInherited(fillFd, options)
      return new CacheFile(path, fd, dev, ino)
    } catch (err) {
      throw ioFault(err, `cannot open ${path}`)
    }
  }

  /**
   * Writes all bytes at `offset`, after what was asked for before: the kernel lets one writer at a time into a file, and
   * threads that wait for it spin, which took more processor time than all writing. @throws CACHE_FULL, CACHE_IO
   */
  write(offset: number, bytes: Uint8Array): Promise<void> {
    const written = this.#last.then(() => this.#write(offset, bytes))
    this.#last = written.catch(() => {})
    return written
  }

  async #write(offset: number, bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.length;) {
        const { bytesWritten } = await writeBytes(this.fd, bytes, done, bytes.length - done, offset + done)
        done += bytesWritten
      }
    } catch (err) {
      throw ioFault(err, `cannot write ${this.path} at ${offset}`)
    }
  }

  close(): void {
    closeSync(this.fd)
  }
}

/** What a failure on the disk of the cache directory means; a Fault stays what it is. CACHE_FULL or CACHE_IO. */
export function ioFault(err: unknown, what: string): Fault {
  if (isFault(err)) return err
  const full = hasErrno(err, 'ENOSPC') || hasErrno(err, 'EDQUOT')
  return full
    ? fault('CACHE_FULL', `${what}: free space on the disk of the cache directory`, { cause: err })
    : fault('CACHE_IO', `${what}: look at the kernel log for the disk of the cache directory`, { cause: err })
}

function openFresh({ path, sizeBytes, forget }: CacheFileOptions): number {
  const found = statSync(path, { throwIfNoEntry: false })
  // Upstream's files may end at the last chunk's end instead of at the block's.
  if (!found || Math.ceil(found.size / BLOCK) * BLOCK < sizeBytes) forget()
  if (found && found.size > sizeBytes) {
    throw fault(
      'CACHE_IO',
      `${path} has ${found.size} bytes but the image says ${sizeBytes}: remove the file, it is fetched again`,
    )
  }
  const fd = openWritable(path, constants.O_CREAT | constants.O_NOFOLLOW)
  try {
    if (found?.size !== sizeBytes) ftruncateSync(fd, sizeBytes)
    return fd
  } catch (err) {
    closeSync(fd)
    throw err
  }
}

/** Opens for reading and writing; for reading alone on a file system that became read-only, whose files are as good. */
export function openWritable(path: string, flags = 0): number {
  try {
    return openSync(path, constants.O_RDWR | flags, 0o600)
  } catch (err) {
    if (!hasErrno(err, 'EROFS')) throw err
    return openSync(path, constants.O_RDONLY | (flags & ~constants.O_CREAT))
  }
}

function checkInherited(fd: number, options: CacheFileOptions): { dev: number; ino: number } {
  const { path, sizeBytes, forget } = options
  const own = fstatSync(fd)
  const named = statSync(path, { throwIfNoEntry: false })
  if (!named && own.size === sizeBytes) {
    // Somebody removed it below a running image, which goes on with the file that has no name.
    forget()
    return own
  }
  if (own.dev !== named?.dev || own.ino !== named.ino || own.size !== sizeBytes) {
    throw fault(
      'CACHE_IO',
      `the inherited descriptor ${fd} is not of ${path}: unmount the image and mount it again`,
    )
  }
  return own
}
