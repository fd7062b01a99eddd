import { closeSync, fstatSync, openSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Logger } from '../common/log.js'
import { addMark, removeMark } from '../native/fanotify.js'
import { FAN } from '../native/fanotify-events.js'
import {
  COUNTERS,
  type FromWorker,
  type Miss,
  type ToWorker,
  type WatchedFile,
  type WorkerInput,
} from './messages.js'

export interface EventLoopOptions {
  groupFd: number
  journalPath: string
  /** Where the doorbell is made, on a file system that can be marked. */
  directory: string
  pendingLimit: number
  watched: readonly WatchedFile[]
  proberPid: number
  logger: Logger
  onMiss: (miss: Miss) => void
}

/** The main thread's side of the event worker. */
export class EventLoop {
  readonly counters: Int32Array<SharedArrayBuffer>
  readonly #options: EventLoopOptions
  /** A private file: opening it wakes the worker, which hears nothing else while it is blocked in read(2). */
  readonly #doorbellFd: number
  readonly #worker: Worker
  readonly #exited: Promise<void>
  readonly #syncs = new Map<number, () => void>()
  #sequence = 0

  constructor(options: EventLoopOptions) {
    this.#options = options
    this.counters = new Int32Array(new SharedArrayBuffer(COUNTERS.length * 4))
    this.#doorbellFd = openNameless(options.directory)
    const { dev, ino } = fstatSync(this.#doorbellFd)
    addMark(options.groupFd, this.#doorbellFd, FAN.OPEN)
    const input: WorkerInput = {
      groupFd: options.groupFd,
      journalPath: options.journalPath,
      doorbell: { dev, ino },
      counters: this.counters,
      pendingLimit: options.pendingLimit,
      watched: options.watched,
      proberPid: options.proberPid,
    }
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: input,
      trackUnmanagedFds: false,
    })
    this.#worker.on('message', (message: FromWorker) => this.#hear(message))
    this.#exited = new Promise((resolve, reject) => {
      this.#worker.once('exit', () => resolve())
      this.#worker.once('error', reject)
    })
    this.#exited.catch((err: unknown) => {
      // Without its worker the daemon serves nobody: die loudly, so that the supervisor starts a successor, which
      // settles what is in the journal.
      options.logger.fatal({ err }, 'event worker failed')
      process.abort()
    })
  }

  /** Resolves when the message, and all before it, is in force in the worker. */
  async tell(message: ToWorker): Promise<void> {
    const sequence = ++this.#sequence
    const synced = new Promise<void>(resolve => this.#syncs.set(sequence, resolve))
    this.#worker.postMessage(message)
    this.#worker.postMessage({ type: 'sync', sequence } satisfies ToWorker)
    this.#ring()
    await synced
  }

  /** Ends the worker after the events it has read. Events not yet read stay in the kernel's queue. */
  async stop(): Promise<void> {
    this.#worker.postMessage({ type: 'stop' } satisfies ToWorker)
    this.#ring()
    await this.#exited
    removeMark(this.#options.groupFd, this.#doorbellFd, FAN.OPEN)
    closeSync(this.#doorbellFd)
  }

  #ring(): void {
    closeSync(openSync(`/proc/self/fd/${this.#doorbellFd}`, 'r'))
  }

  #hear(message: FromWorker): void {
    switch (message.type) {
      case 'misses':
        for (const miss of message.misses) this.#options.onMiss(miss)
        break
      case 'synced':
        this.#syncs.get(message.sequence)?.()
        this.#syncs.delete(message.sequence)
        break
      case 'lost':
        this.#options.logger.error(
          { reason: message.reason, detail: message.detail },
          'events were not served',
        )
        break
    }
  }
}

/** A file that nobody else can open, and that is gone with its descriptor. */
function openNameless(directory: string): number {
  const path = join(directory, `.doorbell-${process.pid}`)
  const fd = openSync(path, 'w', 0o600)
  unlinkSync(path)
  return fd
}
