import { fault } from '../common/fault.js'

/** One operation on an inode of an image whose files are counted. */
export interface Access {
  readonly sequence: number
  readonly ino: number
  /** Place in the table of operations. */
  readonly operation: number
  readonly failed: boolean
  /** Of a READ. */
  readonly bytes: number
  readonly timeMs: number
}

const RECORDS = 8192
const FIELDS = 5
const WRITTEN = 0
const READ = 1
const LOST = 2
const HEAD_BYTES = 16
const FAILED = 64

export const ACCESS_LOG_BYTES = HEAD_BYTES + RECORDS * FIELDS * 8

/**
 * What one worker did, in a ring that it shares with the main thread: a worker that is blocked in the kernel can be asked
 * nothing. What does not fit is lost, and counted.
 */
export class AccessLog {
  readonly #head: Int32Array<SharedArrayBuffer>
  readonly #records: Float64Array<SharedArrayBuffer>

  constructor(memory: SharedArrayBuffer) {
    if (memory.byteLength !== ACCESS_LOG_BYTES)
      throw fault('INTERNAL', `an access log has ${memory.byteLength} bytes: report this`)
    this.#head = new Int32Array(memory, 0, HEAD_BYTES / 4)
    this.#records = new Float64Array(memory, HEAD_BYTES)
  }

  /** For the worker alone. @returns true each time that the log has become half full */
  write(access: Access): boolean {
    const written = Atomics.load(this.#head, WRITTEN)
    const unread = (written - Atomics.load(this.#head, READ)) >>> 0
    if (unread >= RECORDS) {
      Atomics.add(this.#head, LOST, 1)
      return false
    }
    const at = ((written >>> 0) % RECORDS) * FIELDS
    this.#records[at] = access.sequence
    this.#records[at + 1] = access.ino
    this.#records[at + 2] = access.operation + (access.failed ? FAILED : 0)
    this.#records[at + 3] = access.bytes
    this.#records[at + 4] = access.timeMs
    Atomics.store(this.#head, WRITTEN, (written + 1) | 0)
    return unread + 1 === RECORDS / 2
  }

  /** For the main thread alone: everything since the last call. */
  drain(visit: (access: Access) => void): void {
    const written = Atomics.load(this.#head, WRITTEN)
    let read = Atomics.load(this.#head, READ)
    for (; read !== written; read = (read + 1) | 0) {
      const [sequence = 0, ino = 0, operation = 0, bytes = 0, timeMs = 0] = this.#records.subarray(
        ((read >>> 0) % RECORDS) * FIELDS,
        ((read >>> 0) % RECORDS) * FIELDS + FIELDS,
      )
      visit({ sequence, ino, operation: operation % FAILED, failed: operation >= FAILED, bytes, timeMs })
    }
    Atomics.store(this.#head, READ, read)
  }

  /** Accesses that were not recorded since the last call. */
  takeLost(): number {
    return Atomics.exchange(this.#head, LOST, 0)
  }
}
