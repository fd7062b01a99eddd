/**
 * Requests that have been read from the device and not been answered, for a successor of a daemon that was killed: before
 * Linux 6.9 the kernel does not send them again, and whoever waits for the answer waits for ever.
 *
 * The memory that a thread reads requests into is a file (on /run, so that it never outlives the boot): a request is in
 * the file as soon as it has left the kernel's queue, and stays there until the thread reads the next. One that is
 * handed on is copied into a slot before that, until it is answered. So some of what is found was answered: the second
 * answer does nothing, because numbers are never used again in one mount, and the kernel says ENOENT.
 *
 * The file has a region for each thread: its slots, then the buffer that it reads into, all with requests as the kernel
 * wrote them; the first word, the length, is 0 in a slot that is free. A thread takes slots of its own region alone;
 * whoever answers gives one back, through the file.
 */
import { writeSync } from 'node:fs'
import { OPCODE, REQUEST_BYTES, REQUEST_HEADER } from './protocol.js'

/** The longest request that has an answer: a name of 1024 bytes, too long for any image. */
const SLOT_BYTES = 1280
/** Of a thread. More requests that wait for the network at once are forgotten with the process. */
const SLOTS = 768
/** A multiple of the page size. */
export const REGION_BYTES = SLOTS * SLOT_BYTES + REQUEST_BYTES

/** What is never answered. */
const UNANSWERED = new Set<number>([OPCODE.FORGET, OPCODE.BATCH_FORGET, OPCODE.INTERRUPT])
const NO_REQUEST = Buffer.alloc(4)

/** A region as its thread gets it. */
export interface JournalRegion {
  readonly memory: ArrayBuffer
  /** Where the region begins in the memory. */
  readonly offset: number
  /** Where it is in the file. */
  readonly fileOffset: number
  readonly fd: number
}

/** A thread's part of the journal. */
export class RequestJournal {
  /** What requests are read into. */
  readonly buffer: Buffer
  readonly #slots: Uint8Array
  readonly #words: Uint32Array
  readonly #region: JournalRegion

  constructor(region: JournalRegion) {
    const { memory, offset } = region
    this.#region = region
    this.#slots = new Uint8Array(memory, offset, SLOTS * SLOT_BYTES)
    this.#words = new Uint32Array(memory, offset, (SLOTS * SLOT_BYTES) / 4)
    this.buffer = Buffer.from(memory, offset + SLOTS * SLOT_BYTES, REQUEST_BYTES)
  }

  /** Copies a request into a slot. @returns where in the file; undefined when all slots are taken */
  keep(request: Uint8Array): number | undefined {
    for (let slot = 0; slot < SLOTS; slot++) {
      if (this.#words[(slot * SLOT_BYTES) / 4] !== 0) continue
      this.#slots.set(request, slot * SLOT_BYTES)
      return this.#region.fileOffset + slot * SLOT_BYTES
    }
    return undefined
  }

  /** Gives a slot back. */
  free(place: number): void {
    freeSlot(this.#region.fd, place)
  }

  /** What is in the slots, with its place. At the start, that is what a predecessor has left. */
  kept(): { readonly request: Uint8Array; readonly place: number }[] {
    const { fileOffset } = this.#region
    return requestsIn(this.#slots).map(({ request, at }) => ({ request, place: fileOffset + at }))
  }
}

/** Gives a slot back when its request was answered by another than its thread. */
export function freeSlot(fd: number, place: number): void {
  writeSync(fd, NO_REQUEST, 0, NO_REQUEST.length, place)
}

/** The requests in a journal's file, oldest first. What is none is passed over. */
export function parseJournal(file: Uint8Array): Uint8Array[] {
  const requests: Uint8Array[] = []
  for (let at = 0; at < file.length; at += REGION_BYTES) {
    const slots = file.subarray(at, at + SLOTS * SLOT_BYTES)
    const buffer = file.subarray(at + SLOTS * SLOT_BYTES, at + REGION_BYTES).subarray(0, SLOT_BYTES)
    for (const { request } of [...requestsIn(slots), ...requestsIn(buffer)]) requests.push(request)
  }
  return requests.sort((a, b) => uniqueOf(a) - uniqueOf(b))
}

/** A journal's file for so many threads, with these requests in the slots. */
export function encodeJournal(threads: number, requests: readonly Uint8Array[]): Uint8Array {
  const file = new Uint8Array(threads * REGION_BYTES)
  for (const [i, request] of requests.slice(0, threads * SLOTS).entries())
    file.set(request, (i % threads) * REGION_BYTES + Math.floor(i / threads) * SLOT_BYTES)
  return file
}

/** The number of a request. Exact: the kernel counts up from 0 in each mount. */
export function uniqueOf(request: Uint8Array): number {
  const [low = 0, high = 0] = new Uint32Array(request.buffer, request.byteOffset + 8, 2)
  return high * 2 ** 32 + low
}

/** Copies of the requests, one of which may be in each slot. */
function requestsIn(slots: Uint8Array): { readonly request: Uint8Array; readonly at: number }[] {
  const found: { request: Uint8Array; at: number }[] = []
  for (let at = 0; at + REQUEST_HEADER <= slots.length; at += SLOT_BYTES) {
    const request = new Uint8Array(slots.subarray(at, at + SLOT_BYTES))
    const [length = 0, opcode = 0] = new Uint32Array(request.buffer, 0, 2)
    if (length < REQUEST_HEADER || length > request.length || UNANSWERED.has(opcode)) continue
    found.push({ request: request.subarray(0, length), at })
  }
  return found
}
