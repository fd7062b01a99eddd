import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { asFault, fault, hasErrno } from './fault.js'

/**
 * Random access to immutable bytes: what a codec reads from. Reads are synchronous, because a bootstrap is local and
 * small reads of it are served from the page cache.
 */
export interface ByteSource {
  readonly sizeBytes: number
  /** Exactly `length` bytes at `offset`. The result may share memory and must not be written. @throws RAFS_TRUNCATED */
  read(offset: number, length: number): Uint8Array
}

/** Bytes already in memory. */
export class MemorySource implements ByteSource {
  readonly #bytes: Uint8Array
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }
  get sizeBytes(): number {
    return this.#bytes.length
  }
  read(offset: number, length: number): Uint8Array {
    checkRange(offset, length, this.#bytes.length)
    return this.#bytes.subarray(offset, offset + length)
  }
}

const BLOCK = 65536
const MAX_BLOCKS = 64

/** A file read by pread through a bounded cache (at most 4 MiB) of 64 KiB blocks. */
export class FileSource implements ByteSource {
  readonly sizeBytes: number
  readonly #fd: number
  readonly #blocks = new Map<number, Uint8Array>()
  /** The block that was read last: most reads are near the one before. */
  #last: { index: number; block: Uint8Array } | undefined

  /** @throws FILE_MISSING, FILE_UNREADABLE */
  constructor(path: string) {
    this.#fd = openToRead(path)
    const stat = fstatSync(this.#fd)
    this.sizeBytes = stat.size
    if (stat.isFile()) return
    closeSync(this.#fd)
    throw fault('FILE_UNREADABLE', `${path} is not a regular file: name one`)
  }

  read(offset: number, length: number): Uint8Array {
    checkRange(offset, length, this.sizeBytes)
    const first = Math.floor(offset / BLOCK)
    if (offset + length <= (first + 1) * BLOCK) {
      const start = offset - first * BLOCK
      return this.#block(first).subarray(start, start + length)
    }
    const out = new Uint8Array(length)
    this.#fill(out, offset)
    return out
  }

  close(): void {
    this.#blocks.clear()
    this.#last = undefined
    closeSync(this.#fd)
  }

  #block(index: number): Uint8Array {
    if (this.#last?.index === index) return this.#last.block
    let block = this.#blocks.get(index)
    if (block) {
      this.#blocks.delete(index)
    } else {
      if (this.#blocks.size >= MAX_BLOCKS) {
        const oldest = this.#blocks.keys().next()
        if (!oldest.done) this.#blocks.delete(oldest.value)
      }
      block = new Uint8Array(Math.min(BLOCK, this.sizeBytes - index * BLOCK))
      this.#fill(block, index * BLOCK)
    }
    this.#blocks.set(index, block)
    this.#last = { index, block }
    return block
  }

  #fill(out: Uint8Array, offset: number): void {
    for (let done = 0; done < out.length;) {
      const n = readSync(this.#fd, out, done, out.length - done, offset + done)
      if (n === 0)
        throw fault('RAFS_TRUNCATED', `file ended at ${offset + done}: it was cut while it was read`)
      done += n
    }
  }
}

/** Without O_NONBLOCK the open of a pipe would wait for its other end. */
function openToRead(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('FILE_MISSING', `there is no file ${path}: check the path`, { cause: err })
    throw asFault(err, 'FILE_UNREADABLE', `${path} cannot be read`)
  }
}

function checkRange(offset: number, length: number, size: number): void {
  if (offset < 0 || length < 0 || offset + length > size) {
    throw fault('RAFS_TRUNCATED', `range ${offset}+${length} lies outside the ${size} bytes of the file`, {
      context: { offset, length, size },
    })
  }
}
