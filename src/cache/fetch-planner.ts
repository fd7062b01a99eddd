import { setMaxListeners } from 'node:events'
import type { ReadOptions, RequestKind } from '../backend/reader.js'
import { asFault, fault, type Fault, isFault } from '../common/fault.js'
import type { BlobLayout, Extent } from './layout.js'
import { RangeMemory } from './range-memory.js'

/** Most urgent first. */
const KINDS = ['demand', 'readahead', 'prefetch'] as const satisfies RequestKind[]
/** What each kind may take of the budgets: a waiting reader never finds them used up by guesses. */
const SHARE: Record<RequestKind, number> = { demand: 1, readahead: 0.75, prefetch: 0.5 }
/** Fetches of one extent whose bytes turn out wrong, before that is told. */
const MAX_ATTEMPTS = 2

/** A blob, as the planner sees it. */
export interface FetchTarget {
  readonly layout: BlobLayout
  fetch(offset: number, length: number, options: ReadOptions): Promise<Uint8Array>
  /** Decodes, checks, writes and marks. @throws CHUNK_DIGEST_MISMATCH, CHUNK_DECODE, CACHE_FULL, CACHE_IO */
  store(extent: Extent, stored: Uint8Array): Promise<void>
  /** Told when an extent that a reader waits for cannot be had, before the reader is. */
  failed(extent: Extent, fault: Fault): void
}

export interface PlannerOptions {
  /** Bound of bytes fetched or being fetched and not yet written, of all blobs together. */
  memoryBytes: number
  /** Bound of requests in flight, of all blobs together. */
  maxRequests: number
  /** Neighbouring extents are merged into requests of up to this many stored bytes. */
  batchBytes: number
  /** The same for what is read ahead: long ranges cost a registry less, and their chunks count as they arrive. */
  readaheadBatchBytes: number
}

/** One extent on its way into the cache file; everyone who needs it shares it. */
export interface FetchTask {
  readonly extent: Extent
  /** Settles when the extent's chunks are written, or cannot be. */
  readonly done: Promise<void>
}

interface Task extends FetchTask {
  kind: RequestKind
  readonly queue: BlobQueue
  readonly costBytes: number
  state: 'queued' | 'sent'
  /** Questions that wait for it. */
  waiters: number
  attempts: number
  /** Failed in a shared request or check: fetched by itself. */
  alone: boolean
  resolve: () => void
  reject: (fault: Fault) => void
}

/** What is queued and in flight for one blob. */
interface BlobQueue {
  readonly target: FetchTarget
  readonly abort: AbortController
  /** By the extent's first chunk. */
  readonly tasks: Map<number, Task>
  readonly queued: Record<RequestKind, Set<Task>>
  readonly requests: Set<Promise<void>>
}

/**
 * Decides what is asked of the backends, in which order and how much at once: one for all blobs of a cache.
 *
 * Each extent is fetched once however many ask. A waiting reader's extents overtake everything; blobs take turns;
 * what is queued next to each other in a stored blob goes out as one request; requests apart go out in parallel.
 */
export class FetchPlanner {
  readonly #options: PlannerOptions
  readonly #memory: RangeMemory
  readonly #queues = new Map<FetchTarget, BlobQueue>()
  /** Blobs with something queued, by kind; the first is next. */
  readonly #turns: Record<RequestKind, Set<BlobQueue>> = {
    demand: new Set(),
    readahead: new Set(),
    prefetch: new Set(),
  }
  #requests = 0
  #bytes = 0
  #pumping = false

  constructor(options: PlannerOptions) {
    this.#options = options
    this.#memory = new RangeMemory(options.memoryBytes)
  }

  /** Bytes that are held for requests in flight. */
  get heldBytes(): number {
    return this.#bytes
  }

  get requestsInFlight(): number {
    return this.#requests
  }

  /**
   * The task that brings this extent, begun when there is none, made more urgent when it was less so.
   * Whoever waits for it calls `wait`; its failure needs no handler otherwise.
   */
  request(target: FetchTarget, extent: Extent, kind: RequestKind): FetchTask {
    const queue = this.#queueOf(target)
    const found = queue.tasks.get(extent.firstChunk)
    if (found) {
      if (KINDS.indexOf(kind) < KINDS.indexOf(found.kind)) this.#promote(found, kind)
      return found
    }
    const task = newTask(queue, extent, kind)
    queue.tasks.set(extent.firstChunk, task)
    this.#enqueue(task)
    return task
  }

  /** Counts a waiter of the task while `waiting` lasts; a queued task that nobody waits for any more is dropped. */
  async wait(task: FetchTask, waiting: Promise<void>): Promise<void> {
    const own = task as Task
    own.waiters++
    try {
      await waiting
    } finally {
      own.waiters--
      if (own.waiters === 0 && own.state === 'queued') {
        this.#settle(own, fault('CANCELLED', 'nobody waits for this range any more'))
      }
    }
  }

  /** Ends everything of a blob: what is queued fails with CANCELLED, what is being written is written. */
  async drop(target: FetchTarget): Promise<void> {
    const queue = this.#queues.get(target)
    if (!queue) return
    this.#queues.delete(target)
    const closed = fault('CANCELLED', 'the blob was closed')
    for (const task of [...queue.tasks.values()]) if (task.state === 'queued') this.#settle(task, closed)
    queue.abort.abort(closed)
    await Promise.allSettled(queue.requests)
  }

  #queueOf(target: FetchTarget): BlobQueue {
    let queue = this.#queues.get(target)
    if (!queue) {
      const abort = new AbortController()
      // Each request in flight listens, and they are bounded here.
      setMaxListeners(0, abort.signal)
      queue = {
        target,
        abort,
        tasks: new Map(),
        queued: { demand: new Set(), readahead: new Set(), prefetch: new Set() },
        requests: new Set(),
      }
      this.#queues.set(target, queue)
    }
    return queue
  }

  #promote(task: Task, kind: RequestKind): void {
    if (task.state === 'sent') {
      task.kind = kind
      return
    }
    this.#dequeue(task)
    task.kind = kind
    this.#enqueue(task)
  }

  #enqueue(task: Task): void {
    task.state = 'queued'
    task.queue.queued[task.kind].add(task)
    this.#turns[task.kind].add(task.queue)
    if (this.#pumping) return
    // Questions of one moment arrive one by one: wait for the rest of them, so that neighbours are merged.
    this.#pumping = true
    setImmediate(() => {
      this.#pumping = false
      this.#pump()
    })
  }

  #dequeue(task: Task): void {
    const waiting = task.queue.queued[task.kind]
    waiting.delete(task)
    if (waiting.size === 0) this.#turns[task.kind].delete(task.queue)
  }

  #pump(): void {
    for (let task = this.#next(); task; task = this.#next()) {
      const tasks = this.#merge(task)
      for (const member of tasks) {
        this.#dequeue(member)
        member.state = 'sent'
      }
      const { queue } = task
      const request = this.#send(tasks, task.kind).finally(() => {
        queue.requests.delete(request)
        this.#pump()
      })
      queue.requests.add(request)
    }
  }

  /** The most urgent task that the budgets allow, of the blob whose turn it is. */
  #next(): Task | undefined {
    for (const kind of KINDS) {
      const queue = this.#turns[kind].values().next().value
      const task = queue?.queued[kind].values().next().value
      if (!queue || !task) continue
      if (!this.#fits(task.costBytes, kind)) return undefined
      this.#turns[kind].delete(queue)
      this.#turns[kind].add(queue)
      return task
    }
    return undefined
  }

  /** True when the budgets have room for one more request of that kind; an idle planner takes any size. */
  #fits(costBytes: number, kind: RequestKind): boolean {
    if (this.#requests === 0) return true
    return (
      this.#requests < Math.max(1, Math.floor(this.#options.maxRequests * SHARE[kind])) &&
      this.#bytes + costBytes <= this.#options.memoryBytes * SHARE[kind]
    )
  }

  /** The task with its queued neighbours on both sides, in stored order. */
  #merge(task: Task): Task[] {
    const tasks = [task]
    const { batchBytes, readaheadBatchBytes } = this.#options
    const most = task.kind === 'readahead' ? Math.max(batchBytes, readaheadBatchBytes) : batchBytes
    const memory = this.#options.memoryBytes * SHARE[task.kind]
    let length = task.extent.storedLength
    let cost = task.costBytes
    for (const forward of [true, false]) {
      for (let edge = task; !edge.alone;) {
        const { firstChunk, chunkCount } = edge.extent
        const next = queuedTask(task.queue, forward ? firstChunk + chunkCount : firstChunk - 1)
        if (!next || next.alone) break
        const gap = forward ? gapBetween(edge, next) : gapBetween(next, edge)
        if (gap < 0 || gap > batchBytes / 128) break
        if (length + gap + next.extent.storedLength > most) break
        if (this.#bytes + cost + gap + next.costBytes > memory) break
        length += gap + next.extent.storedLength
        cost += gap + next.costBytes
        tasks.push(next)
        edge = next
      }
    }
    return tasks.sort((a, b) => a.extent.firstChunk - b.extent.firstChunk)
  }

  /** Fetches the tasks, which ascend, as one range and stores each as soon as its bytes are there. Never rejects. */
  async #send(tasks: readonly Task[], kind: RequestKind): Promise<void> {
    const first = tasks[0]
    if (!first) return
    const { target, abort } = first.queue
    const start = first.extent.storedOffset
    const cost = costOf(tasks)
    const arriving = [...tasks]
    const stores: Promise<void>[] = []
    const onBytes = (bytes: Uint8Array, done: number): void => {
      for (let next = arriving[0]; next; next = arriving[0]) {
        const from = next.extent.storedOffset - start
        const to = from + next.extent.storedLength
        if (to > done) return
        arriving.shift()
        stores.push(this.#store(next, bytes.subarray(from, to)))
      }
    }
    this.#requests++
    this.#bytes += cost
    const length = lengthOf(tasks)
    const into = this.#memory.take(length)
    try {
      const stored = await target.fetch(start, length, { kind, signal: abort.signal, into, onBytes })
      onBytes(stored, length)
    } catch (err) {
      const failure = asFault(err)
      for (const task of arriving.splice(0)) this.#fetchFailed(task, failure, kind, tasks.length > 1)
    }
    await Promise.all(stores)
    this.#memory.giveBack(into)
    this.#requests--
    this.#bytes -= cost
  }

  async #store(task: Task, stored: Uint8Array): Promise<void> {
    try {
      await task.queue.target.store(task.extent, stored)
      this.#settle(task)
    } catch (err) {
      const failure = asFault(err)
      task.attempts++
      const corrupt = isFault(err, 'CHUNK_DIGEST_MISMATCH') || isFault(err, 'CHUNK_DECODE')
      if (corrupt && task.attempts < MAX_ATTEMPTS && !task.queue.abort.signal.aborted) this.#again(task)
      else this.#settle(task, failure)
    }
  }

  /** Whoever only joined a guess, or a range that is refused as a whole, gets a request of its own. */
  #fetchFailed(task: Task, failure: Fault, sentAs: RequestKind, merged: boolean): void {
    const joined = task.kind === 'demand' && sentAs !== 'demand'
    const refused = merged && !failure.retryable && !task.alone
    if ((joined || refused) && !task.queue.abort.signal.aborted && failure.code !== 'CANCELLED')
      this.#again(task)
    else this.#settle(task, failure)
  }

  #again(task: Task): void {
    task.alone = true
    this.#enqueue(task)
  }

  #settle(task: Task, failure?: Fault): void {
    if (task.state === 'queued') this.#dequeue(task)
    task.queue.tasks.delete(task.extent.firstChunk)
    if (!failure) {
      task.resolve()
      return
    }
    if (task.kind === 'demand' && failure.code !== 'CANCELLED') task.queue.target.failed(task.extent, failure)
    task.reject(failure)
  }
}

function queuedTask(queue: BlobQueue, chunk: number): Task | undefined {
  const { layout } = queue.target
  if (chunk < 0 || chunk >= layout.chunkCount) return undefined
  const task = queue.tasks.get(layout.extentOf(chunk).firstChunk)
  return task?.state === 'queued' ? task : undefined
}

/** Stored bytes between two tasks; negative when they are not in that order. */
function gapBetween(lower: Task, upper: Task): number {
  return upper.extent.storedOffset - lower.extent.storedOffset - lower.extent.storedLength
}

/** Stored bytes from the first task's begin to the last one's end. */
function lengthOf(tasks: readonly Task[]): number {
  const first = tasks[0]?.extent
  const last = tasks.at(-1)?.extent
  return first && last ? last.storedOffset + last.storedLength - first.storedOffset : 0
}

/** Memory that one request for these tasks takes: the gaps between them included. */
function costOf(tasks: readonly Task[]): number {
  return tasks.reduce((sum, task) => sum + task.costBytes - task.extent.storedLength, lengthOf(tasks))
}

function newTask(queue: BlobQueue, extent: Extent, kind: RequestKind): Task {
  let resolve = () => {}
  let reject: (fault: Fault) => void = () => {}
  const done = new Promise<void>((ok, failed) => {
    resolve = ok
    reject = failed
  })
  done.catch(() => {})
  return {
    extent,
    done,
    kind,
    queue,
    costBytes: extentCost(queue.target.layout, extent),
    state: 'queued',
    waiters: 0,
    attempts: 0,
    alone: false,
    resolve,
    reject,
  }
}

/** Memory that an extent takes: its stored bytes, and the decoded ones where they are not the same. */
function extentCost(layout: BlobLayout, extent: Extent): number {
  let decoded = 0
  for (let i = 0; i < extent.chunkCount; i++) decoded += layout.chunkRange(extent.firstChunk + i).length
  return decoded === extent.storedLength ? decoded : decoded + extent.storedLength
}
