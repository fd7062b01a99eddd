/**
 * A thread that takes requests from the device: blocked in read(2), it answers what is local at once and hands the rest to
 * the main thread. It never waits for anything else, and holds no FFI.
 */
import { readSync, writeSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { hasErrno } from '../common/fault.js'
import { AccessLog } from './access-log.js'
import { applyChange } from './apply-change.js'
import { sessionFromNumbers } from './init.js'
import {
  CONTROL,
  type FromWorker,
  INFLIGHT,
  type TreeChange,
  type WorkerImage,
  type WorkerInput,
} from './messages.js'
import { ERRNO, REQUEST_BYTES } from './protocol.js'
import { ReaderPool } from './reader-pool.js'
import { Reply } from './reply.js'
import { RequestJournal } from './request-journal.js'
import { Responder } from './responder.js'
import { VirtualTree } from './virtual-tree.js'

const input = workerData as WorkerInput
const { control, inflight, sessionFd, number } = input
const line = number * INFLIGHT.length
const busy = CONTROL.busy(number)
const ORIGIN_MS = performance.timeOrigin
/** The generation of the tree that this thread has. */
let seen = Atomics.load(control, CONTROL.seen(number))
const journal = input.journal && new RequestJournal(input.journal)
/** Of the request that is worked on, if it has one; see the journal. */
let slot: number | undefined
const accesses = new AccessLog(input.accessLog)
const tree = new VirtualTree<WorkerImage>()
const reply = new Reply(input.reply)
const responder = new Responder({
  tree,
  readers: new ReaderPool(),
  session: sessionFromNumbers(input.session),
  reply,
  request: journal?.buffer ?? Buffer.from(new ArrayBuffer(REQUEST_BYTES)),
  createdSec: input.createdSec,
  worker: number,
  hooks: {
    miss: miss => {
      Atomics.add(control, CONTROL.misses, 1)
      slot ??= journal?.keep(responder.message)
      post({ type: 'miss', miss: { ...miss, slot } })
      slot = undefined
    },
    interrupt: (uniqueLow, uniqueHigh) => post({ type: 'interrupt', uniqueLow, uniqueHigh }),
    failed: (sequence, ino, failure) => post({ type: 'failed', sequence, ino, failure }),
    accessed: access => {
      if (accesses.write(access)) post({ type: 'accesses' })
    },
  },
})
for (const change of input.changes) apply(change)
// What a predecessor has left, before any other.
for (const { request, place } of journal?.kept() ?? []) {
  responder.request.set(request)
  slot = place
  serve(request.length)
  // Undefined when it was handed on.
  if (slot !== undefined) journal?.free(slot)
  slot = undefined
}
while (Atomics.load(control, CONTROL.stopping) === 0) {
  const length = take()
  if (length === undefined) break
  if (length === 0) continue
  serve(length)
}

/** Works on the request that the responder holds. */
function serve(length: number): void {
  // Before the generation is looked at: who hides an image waits for the busy ones that have not seen it.
  Atomics.store(control, busy, 1)
  const generation = Atomics.load(control, CONTROL.generation)
  if (generation !== seen) {
    hearMessages()
    seen = generation
    Atomics.store(control, CONTROL.seen(number), generation)
  }
  const nowMs = performance.now()
  begin(nowMs)
  const answer = responder.respond(length, nowMs)
  if (answer > 0) give(answer)
  inflight[line + INFLIGHT.opcode] = 0
  Atomics.store(control, busy, 0)
  if (Atomics.load(control, CONTROL.awaited) === 1) post({ type: 'idle' })
}

/** Length of the next request; 0 for none this time, undefined when there will be no more. */
function take(): number | undefined {
  try {
    return readSync(sessionFd, responder.request, 0, responder.request.length, null)
  } catch (err) {
    // ENOENT: the caller gave up before the request was read.
    if (hasErrno(err, 'ENOENT') || hasErrno(err, 'EINTR') || hasErrno(err, 'EAGAIN')) return 0
    if (!hasErrno(err, 'ENODEV') && !hasErrno(err, 'ECONNABORTED')) throw err
    post({ type: 'ended' })
    return undefined
  }
}

function give(length: number): void {
  try {
    writeSync(sessionFd, reply.bytes, 0, length)
  } catch (err) {
    // ENOENT: the caller gave up meanwhile. ENODEV and ECONNABORTED are told by the next read.
    if (['ENOENT', 'ENODEV', 'ECONNABORTED'].some(name => hasErrno(err, name))) return
    // One answer that the kernel does not take is not to end the others, again and again with each successor.
    post({ type: 'refused', opcode: responder.opcode, reason: String(err) })
    writeSync(
      sessionFd,
      reply.bytes,
      0,
      reply.finish(responder.uniqueLow, responder.uniqueHigh, ERRNO.EIO, 0),
    )
  }
}

function begin(nowMs: number): void {
  inflight[line + INFLIGHT.node] = responder.node
  inflight[line + INFLIGHT.unique] = responder.uniqueLow + (responder.uniqueHigh & 0x1f_ffff) * 2 ** 32
  inflight[line + INFLIGHT.sinceMs] = ORIGIN_MS + nowMs
  inflight[line + INFLIGHT.opcode] = responder.opcode
}

function hearMessages(): void {
  if (!parentPort) return
  for (;;) {
    const received = receiveMessageOnPort(parentPort) as { message: TreeChange } | undefined
    if (!received) return
    apply(received.message)
  }
}

function apply(change: TreeChange): void {
  applyChange(tree, change)
  if (change.type === 'no-image') responder.drop(change.sequence)
}

function post(message: FromWorker): void {
  parentPort?.postMessage(message)
}
