/**
 * The journal of unanswered events: what a successor must answer, or fetch at once, for a daemon that was killed. The
 * drivers whose kernel asks for ranges share it; FUSE, whose requests are more than ranges, has a file of requests.
 *
 * A file of slots that outlives the process, in the run directory. An event is recorded before it is served and cleared
 * after its answer, so what is found is never wrong, at worst late: its answer was given, or its reader is gone. On
 * fanotify the slot is the number of the event's descriptor, which names no other event while it is open.
 *
 * Header, 40 bytes, little-endian: `nydus-ev`, u32 version 1, u32 0, the boot id as 16 bytes, 8 bytes 0. What begins
 * otherwise, as that of another boot or version, is empty: its numbers mean nothing here. Then slots of 40 bytes: u32
 * state (1 unanswered), u32 number of the slot, u64 device, u64 inode of the cache file, u64 offset, u64 count. Written
 * through node:fs alone, because workers write it.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import { readBootId } from './written-map.js'

const SLOT = 40
const MAGIC = 'nydus-ev'
const VERSION = 1
const UNANSWERED = 1
/** Far above any RLIMIT_NOFILE in use, and any number of events under way. */
const MAX_SLOTS = 1 << 21

/** What the kernel waits for: a range of a blob's cache file. */
export interface EventRange {
  readonly dev: number
  readonly ino: number
  readonly offset: number
  readonly count: number
}

export interface JournalEntry extends EventRange {
  readonly slot: number
}

export class EventJournal {
  readonly #fd: number
  readonly #slot = Buffer.alloc(SLOT)
  readonly #zero = Buffer.alloc(SLOT)
  readonly #header: Buffer

  /** Opens or makes it; one of another boot or version is emptied. */
  constructor(path: string, bootId: string = readBootId()) {
    closeSync(openSync(path, 'a+', 0o600))
    this.#fd = openSync(path, 'r+', 0o600)
    this.#header = encodeHeader(bootId)
    const found = Buffer.alloc(SLOT)
    if (readSync(this.#fd, found, 0, SLOT, 0) < SLOT || !found.equals(this.#header)) this.reset()
  }

  record(slot: number, { dev, ino, offset, count }: EventRange): void {
    const bytes = this.#slot
    bytes.writeUInt32LE(UNANSWERED, 0)
    bytes.writeUInt32LE(slot, 4)
    writeU64(bytes, dev, 8)
    writeU64(bytes, ino, 16)
    writeU64(bytes, offset, 24)
    writeU64(bytes, count, 32)
    writeSync(this.#fd, bytes, 0, SLOT, placeOf(slot))
  }

  clear(slot: number): void {
    writeSync(this.#fd, this.#zero, 0, SLOT, placeOf(slot))
  }

  /** Forgets everything: numbers of an earlier group's events mean nothing to another group. */
  reset(): void {
    ftruncateSync(this.#fd)
    writeSync(this.#fd, this.#header, 0, SLOT, 0)
  }

  /** Beyond every slot that was ever used. */
  get slots(): number {
    return Math.min(Math.max(0, Math.ceil(fstatSync(this.#fd).size / SLOT) - 1), MAX_SLOTS)
  }

  /** What was recorded and not cleared. A damaged slot is passed over. */
  entries(): JournalEntry[] {
    const size = this.slots * SLOT
    const bytes = Buffer.alloc(size)
    const length = readSync(this.#fd, bytes, 0, size, SLOT)
    const found: JournalEntry[] = []
    for (let at = 0; at + SLOT <= length; at += SLOT) {
      if (bytes.readUInt32LE(at) !== UNANSWERED) continue
      const slot = bytes.readUInt32LE(at + 4)
      if (slot !== at / SLOT) continue
      const field = (place: number): number => Number(bytes.readBigUInt64LE(at + place))
      found.push({ slot, dev: field(8), ino: field(16), offset: field(24), count: field(32) })
    }
    return found
  }

  close(): void {
    closeSync(this.#fd)
  }
}

function placeOf(slot: number): number {
  return (slot + 1) * SLOT
}

function encodeHeader(bootId: string): Buffer {
  const header = Buffer.alloc(SLOT)
  header.write(MAGIC, 0, 'latin1')
  header.writeUInt32LE(VERSION, 8)
  header.write(bootId.replaceAll('-', ''), 16, 16, 'hex')
  return header
}

function writeU64(buffer: Buffer, value: number, at: number): void {
  buffer.writeUInt32LE(value % 0x1_0000_0000, at)
  buffer.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4)
}
