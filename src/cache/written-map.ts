import { closeSync, constants, openSync, readFileSync, renameSync } from 'node:fs'
import { hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { ChunkBits } from './chunk-bits.js'
import { openWritable } from './cache-file.js'
import { readAll, writeAll } from './durable-map.js'

const MAGIC = Buffer.from('NYDUSWRT')
const VERSION = 1
const BOOT_ID_LENGTH = 36
const HEADER_SIZE = 64
/** Where none can be made: whatever is written to it fails. */
const NO_FILE = -1

/**
 * The written level of the ready map, `<id>.blob.written`: a bit is set right after the chunk's bytes were written.
 * It and the bytes survive the death of the process in the page cache, and are trusted within the same boot only.
 *
 * Format: magic `NYDUSWRT`, u32 version 1, u32 chunk count, boot id (36 bytes of text), zeros up to byte 64, then the
 * bitmap, most significant bit first.
 */
export class WrittenMap {
  readonly bits: ChunkBits
  readonly #fd: number

  private constructor(fd: number, bits: ChunkBits) {
    this.#fd = fd
    this.bits = bits
  }

  /**
   * Opens the map of this boot; one of another boot, or not well formed, is replaced by one that holds `durable`.
   * The replacement appears by rename: a file under the final name never mixes this boot's id and older bits.
   */
  static open(path: string, durable: ChunkBits, bootId: string, logger: Logger): WrittenMap {
    try {
      const fd = openWritable(path)
      const found = parseWrittenMap(readAll(fd), durable.count)
      if (found?.bootId === bootId) {
        found.bits.add(durable)
        return new WrittenMap(fd, found.bits)
      }
      closeSync(fd)
      if (!found)
        logger.warn({ path }, 'the map of written chunks is damaged: what it covers is fetched again')
    } catch (err) {
      if (!hasErrno(err, 'ENOENT')) throw err
    }
    const bits = new ChunkBits(durable.count, durable.bytes.slice())
    const temporary = `${path}.new`
    let fd: number
    try {
      fd = openSync(temporary, constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC, 0o600)
    } catch (err) {
      // What is durable can still be read.
      if (hasErrno(err, 'EROFS')) return new WrittenMap(NO_FILE, bits)
      throw err
    }
    try {
      writeAll(fd, encodeWrittenMap(bits, bootId), 0)
      renameSync(temporary, path)
      return new WrittenMap(fd, bits)
    } catch (err) {
      closeSync(fd)
      throw err
    }
  }

  /**
   * Sets a bit whose data is written. Synchronous on purpose: it is one byte into the page cache, and two writes of
   * the same byte can not overtake each other.
   */
  set(chunk: number): void {
    if (!this.bits.set(chunk)) return
    try {
      this.#writeByte(chunk)
    } catch (err) {
      this.bits.clear(chunk)
      throw err
    }
  }

  /** Takes bits back: those whose data failed to reach the disk. @throws when the file cannot be written; memory is right */
  distrust(chunks: readonly number[]): void {
    for (const chunk of chunks) this.bits.clear(chunk)
    for (const chunk of chunks) this.#writeByte(chunk)
  }

  close(): void {
    if (this.#fd !== NO_FILE) closeSync(this.#fd)
  }

  #writeByte(chunk: number): void {
    const at = chunk >> 3
    writeAll(this.#fd, this.bits.bytes.subarray(at, at + 1), HEADER_SIZE + at)
  }
}

/** The kernel's id of this boot. */
export function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

export function parseWrittenMap(
  file: Buffer,
  chunkCount: number,
): { bootId: string; bits: ChunkBits } | undefined {
  if (file.length !== HEADER_SIZE + Math.ceil(chunkCount / 8)) return undefined
  if (!file.subarray(0, 8).equals(MAGIC) || file.readUInt32LE(8) !== VERSION) return undefined
  if (file.readUInt32LE(12) !== chunkCount) return undefined
  const bootId = file.toString('latin1', 16, 16 + BOOT_ID_LENGTH)
  return { bootId, bits: new ChunkBits(chunkCount, new Uint8Array(file.subarray(HEADER_SIZE))) }
}

export function encodeWrittenMap(bits: ChunkBits, bootId: string): Buffer {
  const file = Buffer.alloc(HEADER_SIZE + bits.bytes.length)
  file.set(MAGIC, 0)
  file.writeUInt32LE(VERSION, 8)
  file.writeUInt32LE(bits.count, 12)
  file.write(bootId.slice(0, BOOT_ID_LENGTH), 16, 'latin1')
  file.set(bits.bytes, HEADER_SIZE)
  return file
}
