import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { asFault, fault, hasErrno } from './fault.js'

/**
 * Random access to immutable bytes: what a codec reads from. Reads are synchronous, because a bootstrap is local and
 * small reads of it are served from the page cache.
 */
export interface ByteSource {
  readonly sizeBytes: number
  /**
   * Exactly `length` bytes at `offset`. The result may share memory and must not be written.
   * @throws RAFS_TRUNCATED, CANCELLED when it was closed
   */
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

/** Right for who reads a file from its start to its end. */
const SEQUENTIAL_BLOCK_BYTES = 65536
/** Right for who jumps about in it: what is read beside the wanted bytes costs more than the call. */
const RANDOM_BLOCK_BYTES = 4096
const CACHE_BYTES = 4 * 1024 * 1024

/** A file read by pread through a bounded cache of 4 MiB. */
export class FileSource implements ByteSource {
  readonly sizeBytes: number
  readonly #fd: number
  readonly #isOurs: boolean
  readonly #blockBytes: number
  readonly #blocks = new Map<number, Uint8Array>()
  /** The block that was read last: most reads are near the one before. */
  #last: { index: number; block: Uint8Array } | undefined
  #closed = false

  /**
   * Opens a path to be read in order, or reads through a descriptor that stays the caller's, in any order.
   * @throws FILE_MISSING, FILE_UNREADABLE
   */
  constructor(file: string | number) {
    this.#isOurs = typeof file === 'string'
    this.#blockBytes = this.#isOurs ? SEQUENTIAL_BLOCK_BYTES : RANDOM_BLOCK_BYTES
    this.#fd = typeof file === 'string' ? openToRead(file) : file
    const stat = fstatSync(this.#fd)
    this.sizeBytes = stat.size
    if (stat.isFile()) return
    this.close()
    throw fault('FILE_UNREADABLE', `${file} is not a regular file: name one`)
  }

  read(offset: number, length: number): Uint8Array {
    checkRange(offset, length, this.sizeBytes)
    const first = Math.floor(offset / this.#blockBytes)
    const start = offset - first * this.#blockBytes
    if (start + length <= this.#blockBytes) {
      return this.#block(first).subarray(start, start + length)
    }
    const out = new Uint8Array(length)
    if (length > this.#blockBytes) {
      this.#fill(out, offset)
    } else {
      const head = this.#block(first).subarray(start)
      out.set(head)
      out.set(this.#block(first + 1).subarray(0, length - head.length), head.length)
    }
    return out
  }

  close(): void {
    this.#closed = true
    this.#blocks.clear()
    this.#last = undefined
    if (this.#isOurs) closeSync(this.#fd)
  }

  #block(index: number): Uint8Array {
    if (this.#last?.index === index) return this.#last.block
    let block = this.#blocks.get(index)
    if (block) {
      this.#blocks.delete(index)
    } else {
      if (this.#blocks.size * this.#blockBytes >= CACHE_BYTES) {
        const oldest = this.#blocks.keys().next()
        if (!oldest.done) this.#blocks.delete(oldest.value)
      }
      const at = index * this.#blockBytes
      block = new Uint8Array(Math.min(this.#blockBytes, this.sizeBytes - at))
      this.#fill(block, at)
    }
    this.#blocks.set(index, block)
    this.#last = { index, block }
    return block
  }

  #fill(out: Uint8Array, offset: number): void {
    // The number of the descriptor may be of another file by now.
    if (this.#closed) throw fault('CANCELLED', 'the file was closed while it was read')
    for (let done = 0; done < out.length;) {
      const n = readSync(this.#fd, out, done, out.length - done, offset + done)
      if (n === 0)
        throw fault('RAFS_TRUNCATED', `file ended at ${offset + done}: it was cut while it was read`)
      done += n
    }
  }
}

/**
 * A descriptor of an existing file. Without O_NONBLOCK the open of a pipe would wait for its other end.
 * @throws FILE_MISSING, FILE_UNREADABLE
 */
export function openToRead(path: string): number {
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
