import { closeSync, constants, fdatasync, fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs'
import { promisify } from 'node:util'
import type { Logger } from '../common/log.js'
import { openWritable } from './cache-file.js'
import { ChunkBits } from './chunk-bits.js'

const syncData = promisify(fdatasync)

const MAGIC = 0x424d4150
const VERSION = 1
const MAGIC2 = 0x434d4150
const ALL_READY = 0x4d4d4150
const HEADER_SIZE = 4096

/**
 * The durable level of the ready map: upstream's `<id>.blob.data.chunk_map` (nydusd.md 5.2). A bit is written only
 * after the chunk's bytes passed fdatasync, so that a set bit is true after a power cut too.
 */
export class DurableMap {
  readonly bits: ChunkBits
  readonly #fd: number

  private constructor(fd: number, bits: ChunkBits) {
    this.#fd = fd
    this.bits = bits
  }

  /** Opens or creates the map. One that is not well formed counts as empty, is said so, and is begun anew. */
  static open(path: string, chunkCount: number, logger: Logger): DurableMap {
    const fd = openWritable(path, constants.O_CREAT)
    try {
      const file = readAll(fd)
      const bits = parseChunkMap(file, chunkCount)
      if (bits) return new DurableMap(fd, bits)
      if (file.length > 0) {
        logger.warn({ path }, 'the chunk map is damaged or of another blob: what it covers is fetched again')
      }
      const empty = new ChunkBits(chunkCount)
      ftruncateSync(fd, 0)
      writeAll(fd, encodeChunkMap(empty), 0)
      return new DurableMap(fd, empty)
    } catch (err) {
      closeSync(fd)
      throw err
    }
  }

  /** Sets bits whose data is on the disk already; once all are set, flushes the map and its all-ready marker. */
  async add(chunks: readonly number[]): Promise<void> {
    let first = Infinity
    let last = -1
    for (const chunk of chunks) {
      this.bits.set(chunk)
      first = Math.min(first, chunk >> 3)
      last = Math.max(last, chunk >> 3)
    }
    if (last >= 0) writeAll(this.#fd, this.bits.bytes.subarray(first, last + 1), HEADER_SIZE + first)
    if (!this.bits.full) return
    await syncData(this.#fd)
    const marker = Buffer.alloc(4)
    marker.writeUInt32LE(ALL_READY)
    writeAll(this.#fd, marker, 12)
    await syncData(this.#fd)
  }

  close(): void {
    closeSync(this.#fd)
  }
}

/** The bits of a chunk map file of that many chunks, or undefined when it is not one. */
export function parseChunkMap(file: Buffer, chunkCount: number): ChunkBits | undefined {
  if (file.length !== HEADER_SIZE + Math.ceil(chunkCount / 8)) return undefined
  if (file.readUInt32LE(0) !== MAGIC || file.readUInt32LE(4) !== VERSION) return undefined
  if (file.readUInt32LE(8) !== MAGIC2) return undefined
  const marker = file.readUInt32LE(12)
  if (marker !== 0 && marker !== ALL_READY) return undefined
  const bits = new ChunkBits(chunkCount, new Uint8Array(file.subarray(HEADER_SIZE)))
  if (marker === ALL_READY) bits.setAll()
  return bits
}

/** A chunk map file with these bits and no all-ready marker. */
export function encodeChunkMap(bits: ChunkBits): Buffer {
  const file = Buffer.alloc(HEADER_SIZE + bits.bytes.length)
  file.writeUInt32LE(MAGIC, 0)
  file.writeUInt32LE(VERSION, 4)
  file.writeUInt32LE(MAGIC2, 8)
  file.set(bits.bytes, HEADER_SIZE)
  return file
}

/** The whole file behind a descriptor. */
export function readAll(fd: number): Buffer {
  const file = Buffer.alloc(fstatSync(fd).size)
  for (let done = 0; done < file.length;) {
    const n = readSync(fd, file, done, file.length - done, done)
    if (n === 0) return file.subarray(0, done)
    done += n
  }
  return file
}

/** Writes all bytes at `position`. */
export function writeAll(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length;) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done)
  }
}
