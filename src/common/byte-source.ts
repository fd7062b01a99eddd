import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { ARENA_BLOCK, ArenaFile } from './block-arena.js'
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
  /**
   * Fills memory of the caller with the bytes at `offset`: for who reads much once, and would leave as much garbage. Sources
   * without it make none. @throws as `read`
   */
  readInto?(into: Uint8Array, offset: number): void
  /**
   * The same bytes for who jumps about in them, and holds no result longer than it takes to look at ARENA_STAY other
   * blocks: its memory is used again. Sources without it are quick as they are.
   */
  brief?(): ByteSource
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
const BLOCK = 65536
const MAX_BLOCKS = 64

/** A file read by pread through a bounded cache (at most 4 MiB) of 64 KiB blocks. */
export class FileSource implements ByteSource {
  readonly sizeBytes: number
  readonly #fd: number
  readonly #isOurs: boolean
  readonly #blocks = new Map<number, Uint8Array>()
  /** The block that was read last: most reads are near the one before. */
  #last: { index: number; block: Uint8Array } | undefined
  #closed = false

  /**
   * Opens a path, or reads through a descriptor that stays the caller's.
   * @throws FILE_MISSING, FILE_UNREADABLE
   */
  constructor(file: string | number) {
    this.#isOurs = typeof file === 'string'
    this.#fd = typeof file === 'string' ? openToRead(file) : file
    const stat = fstatSync(this.#fd)
    this.sizeBytes = stat.size
    if (stat.isFile()) return
    this.close()
    throw fault('FILE_UNREADABLE', `${file} is not a regular file: name one`)
  }

  read(offset: number, length: number): Uint8Array {
    checkRange(offset, length, this.sizeBytes)
    const first = Math.floor(offset / BLOCK)
    if (offset + length <= (first + 1) * BLOCK) {
      const start = offset - first * BLOCK
      return this.#block(first).subarray(start, start + length)
    }
    return this.#readFresh(offset, length)
  }

  readInto(into: Uint8Array, offset: number): void {
    checkRange(offset, into.length, this.sizeBytes)
    this.#fill(into, 0, into.length, offset)
  }

  /** Through a cache of 8 MiB that all files of the thread have in common. */
  brief(): ByteSource {
    const { sizeBytes } = this
    const file = new ArenaFile(sizeBytes, (into, at, size, position) => this.#fill(into, at, size, position))
    return {
      sizeBytes,
      read: (offset, length) => {
        checkRange(offset, length, sizeBytes)
        return length > ARENA_BLOCK ? this.#readFresh(offset, length) : file.read(offset, length)
      },
    }
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
      if (this.#blocks.size >= MAX_BLOCKS) {
        const oldest = this.#blocks.keys().next()
        if (!oldest.done) this.#blocks.delete(oldest.value)
      }
      block = this.#readFresh(index * BLOCK, Math.min(BLOCK, this.sizeBytes - index * BLOCK))
    }
    this.#blocks.set(index, block)
    this.#last = { index, block }
    return block
  }

  #readFresh(offset: number, length: number): Uint8Array {
    const out = new Uint8Array(length)
    this.#fill(out, 0, length, offset)
    return out
  }

  #fill(into: Uint8Array, at: number, length: number, position: number): void {
    // The number of the descriptor may be of another file by now.
    if (this.#closed) throw fault('CANCELLED', 'the file was closed while it was read')
    for (let done = 0; done < length;) {
      const n = readSync(this.#fd, into, at + done, length - done, position + done)
      if (n === 0)
        throw fault('RAFS_TRUNCATED', `file ended at ${position + done}: it was cut while it was read`)
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
