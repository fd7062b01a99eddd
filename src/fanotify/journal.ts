/**
 * The journal of unanswered events: what a successor must answer for a daemon that was killed.
 *
 * One fixed slot per event descriptor number, in a file that outlives the process (on /run, so it never outlives the
 * boot). An event is recorded before it is served, and its slot is cleared after the answer and before its descriptor
 * is closed: while the descriptor is open its number cannot name another event, so a slot is never wrong, at worst late.
 *
 * Slot, 40 bytes, little-endian: u32 state (1 unanswered), u32 descriptor number, u64 device, u64 inode, u64 offset,
 * u64 count. Written through node:fs alone, because workers write it.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'

const SLOT = 40
const UNANSWERED = 1
/** Highest descriptor number that a journal is read for: far above any RLIMIT_NOFILE in use. */
const MAX_FD = 1 << 21

export interface JournalEntry {
  /** Number of the event's descriptor in the process that read it: the key of the answer. */
  readonly eventFd: number
  readonly dev: number
  readonly ino: number
  readonly offset: number
  readonly count: number
}

export class Journal {
  readonly #fd: number
  readonly #slot = Buffer.alloc(SLOT)
  readonly #zero = Buffer.alloc(SLOT)

  constructor(path: string) {
    this.#fd = openSync(path, 'a+', 0o600)
    closeSync(this.#fd)
    this.#fd = openSync(path, 'r+', 0o600)
  }

  record(entry: JournalEntry): void {
    const slot = this.#slot
    slot.writeUInt32LE(UNANSWERED, 0)
    slot.writeUInt32LE(entry.eventFd, 4)
    writeU64(slot, entry.dev, 8)
    writeU64(slot, entry.ino, 16)
    writeU64(slot, entry.offset, 24)
    writeU64(slot, entry.count, 32)
    writeSync(this.#fd, slot, 0, SLOT, entry.eventFd * SLOT)
  }

  clear(eventFd: number): void {
    writeSync(this.#fd, this.#zero, 0, SLOT, eventFd * SLOT)
  }

  /** Forgets everything: numbers of an earlier group's events mean nothing to another group. */
  reset(): void {
    ftruncateSync(this.#fd)
  }

  /** Beyond every number that was ever recorded. */
  get slots(): number {
    return Math.min(Math.ceil(fstatSync(this.#fd).size / SLOT), MAX_FD)
  }

  /** What was recorded and not cleared. A damaged slot is passed over: its reader is denied once and asks again. */
  entries(): JournalEntry[] {
    const size = Math.min(fstatSync(this.#fd).size, MAX_FD * SLOT)
    const bytes = Buffer.alloc(size)
    const length = readSync(this.#fd, bytes, 0, size, 0)
    const found: JournalEntry[] = []
    for (let at = 0; at + SLOT <= length; at += SLOT) {
      if (bytes.readUInt32LE(at) !== UNANSWERED) continue
      const eventFd = bytes.readUInt32LE(at + 4)
      if (eventFd !== at / SLOT) continue
      const [dev, ino, offset, count] = [8, 16, 24, 32].map(field =>
        Number(bytes.readBigUInt64LE(at + field)),
      )
      if (dev === undefined || ino === undefined || offset === undefined || count === undefined) continue
      found.push({ eventFd, dev, ino, offset, count })
    }
    return found
  }

  close(): void {
    closeSync(this.#fd)
  }
}

function writeU64(buffer: Buffer, value: number, at: number): void {
  buffer.writeUInt32LE(value % 0x1_0000_0000, at)
  buffer.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4)
}
