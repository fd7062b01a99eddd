/**
 * The event loop: a thread that blocks in read(2) on the fanotify group, lets reads of local bytes through at once and
 * hands the others to the main thread.
 *
 * Invariants: an event is in the journal before it is served, and its slot is cleared after the answer and before its
 * descriptor is closed; no FFI here, kernel descriptors are touched through node:fs alone. Order per event: answer, then
 * close, because the number is the key of the answer.
 */
import { closeSync, fstatSync, readSync, writeSync } from 'node:fs'
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import {
  FAN,
  RESPONSE_SIZE,
  type FanotifyEvent,
  encodeAllow,
  encodeDeny,
  parseFanotifyEvents,
} from '../native/fanotify-events.js'
import { EventJournal } from '../cache/event-journal.js'
import { rangeReady } from '../cache/ready-blocks.js'
import {
  COUNTERS,
  EVENT_BUFFER_BYTES,
  type FromWorker,
  type Miss,
  type ToWorker,
  type WatchedFile,
  type WorkerInput,
} from './messages.js'

const input = workerData as WorkerInput
const journal = new EventJournal(input.journalPath)
const watched = new Map<number, WatchedFile>(input.watched.map(file => [file.ino, file]))
const response = Buffer.alloc(RESPONSE_SIZE)
let proberPid = input.proberPid
let running = true
let misses: Miss[] = []

const buffer = Buffer.alloc(EVENT_BUFFER_BYTES)
while (running) {
  waitForRoom()
  let length: number
  try {
    length = readSync(input.groupFd, buffer, 0, buffer.length, null)
  } catch (err) {
    const code = (err as NodeJS.ErrnoException).code
    if (code === 'EINTR') continue
    if (code === 'EMFILE' || code === 'ENFILE') {
      // The kernel has denied the event that found no descriptor; the reader asks again.
      post({ type: 'lost', reason: 'descriptors', detail: String(err) })
      continue
    }
    throw err
  }
  for (const event of parseFanotifyEvents(buffer, length)) handle(event)
  if (misses.length > 0) {
    post({ type: 'misses', misses })
    misses = []
  }
}
journal.close()

function handle(event: FanotifyEvent): void {
  if (event.fd < 0) {
    if (event.mask & FAN.Q_OVERFLOW)
      post({ type: 'lost', reason: 'overflow', detail: 'event queue overflow' })
    return
  }
  const { dev, ino } = fstatSync(event.fd)
  if (ino === input.doorbell.ino && dev === input.doorbell.dev) {
    closeSync(event.fd)
    if (event.mask & FAN.OPEN) hearMessages()
    return
  }
  // The doorbell of a predecessor: nobody waits.
  if (!(event.mask & FAN.PRE_ACCESS)) {
    closeSync(event.fd)
    return
  }
  const { offset, length: count } = event
  const file = watched.get(ino)
  journal.record(event.fd, { dev, ino, offset, count })
  if (!file || file.dev !== dev) {
    answer(event.fd, 'deny')
    post({
      type: 'lost',
      reason: 'unknown-file',
      detail: `inode ${ino} of device ${dev} belongs to no open blob`,
    })
  } else if (rangeReady(file.readyBlocks, file.sizeBytes, offset, count)) {
    answer(event.fd, 'allow')
  } else if (event.pid === proberPid && proberPid !== 0) {
    answer(event.fd, 'deny')
  } else {
    Atomics.add(input.counters, COUNTERS.pending, 1)
    misses.push({ eventFd: event.fd, dev, ino, offset, count })
  }
}

function answer(eventFd: number, verdict: 'allow' | 'deny'): void {
  const allow = verdict === 'allow'
  respond(allow ? encodeAllow(eventFd, response) : encodeDeny(eventFd, 'EIO', response))
  Atomics.add(input.counters, allow ? COUNTERS.answered : COUNTERS.denied, 1)
  journal.clear(eventFd)
  closeSync(eventFd)
}

/** A reader that was killed meanwhile leaves no event to answer: ENOENT. */
function respond(bytes: Buffer): void {
  try {
    writeSync(input.groupFd, bytes)
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ENOENT') throw err
  }
}

/** Each unanswered miss holds a descriptor: beyond the limit new events stay in the kernel's queue. */
function waitForRoom(): void {
  for (;;) {
    const pending = Atomics.load(input.counters, COUNTERS.pending)
    if (pending < input.pendingLimit) return
    Atomics.wait(input.counters, COUNTERS.pending, pending)
  }
}

function hearMessages(): void {
  for (;;) {
    const received = parentPort
      ? (receiveMessageOnPort(parentPort) as { message: ToWorker } | undefined)
      : undefined
    if (!received) return
    const { message } = received
    switch (message.type) {
      case 'watch':
        watched.set(message.file.ino, message.file)
        break
      case 'forget':
        watched.delete(message.ino)
        break
      case 'prober':
        proberPid = message.pid
        break
      case 'sync':
        post({ type: 'synced', sequence: message.sequence })
        break
      case 'stop':
        running = false
        break
    }
  }
}

function post(message: FromWorker): void {
  parentPort?.postMessage(message)
}
