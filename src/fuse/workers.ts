import { EventEmitter, once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Logger } from '../common/log.js'
import { allocateAligned } from '../native/cachefiles.js'
import { type Access, ACCESS_LOG_BYTES, AccessLog } from './access-log.js'
import {
  CONTROL,
  type FromWorker,
  INFLIGHT,
  type TreeChange,
  type WorkerInput,
  type WorkerNews,
} from './messages.js'
import type { OpenJournal } from './open-journal.js'
import { REPLY_BYTES } from './reply.js'
import type { InflightRequest } from './server.js'

/** What a worker allocates is dead when it has answered: a large nursery would only be filled and kept. */
const YOUNG_GENERATION_MB = 6

export interface WorkersOptions extends Pick<WorkerInput, 'sessionFd' | 'session' | 'createdSec'> {
  readonly count: number
  readonly journal: OpenJournal | undefined
  readonly logger: Logger
  readonly hear: (message: WorkerNews) => void
}

/** The main thread's side of the worker threads of one server. */
export class Workers {
  readonly #options: WorkersOptions
  readonly #control: Int32Array<SharedArrayBuffer>
  readonly #inflight: Float64Array<SharedArrayBuffer>
  readonly #accessMemory: readonly SharedArrayBuffer[]
  readonly #accessLogs: readonly AccessLog[]
  readonly #workers: Worker[] = []
  #missesHeard = 0
  readonly #heard = new EventEmitter()
  #awaiting = 0
  #exited: Promise<unknown> = Promise.resolve()

  constructor(options: WorkersOptions) {
    this.#options = options
    const { count } = options
    this.#control = new Int32Array(new SharedArrayBuffer(CONTROL.length(count) * 4))
    this.#inflight = new Float64Array(new SharedArrayBuffer(count * INFLIGHT.length * 8))
    this.#accessMemory = Array.from({ length: count }, () => new SharedArrayBuffer(ACCESS_LOG_BYTES))
    this.#accessLogs = this.#accessMemory.map(memory => new AccessLog(memory))
  }

  start(changes: readonly TreeChange[]): void {
    const { sessionFd, session, createdSec, journal, hear, logger } = this.#options
    for (const [number, accessLog] of this.#accessMemory.entries()) {
      const region = journal?.regions[number]
      const reply = allocateAligned(REPLY_BYTES) as Uint8Array<ArrayBuffer>
      const input: WorkerInput = {
        number,
        sessionFd,
        session,
        createdSec,
        control: this.#control,
        inflight: this.#inflight,
        accessLog,
        reply,
        journal: region,
        changes,
      }
      const worker = new Worker(new URL('./worker.js', import.meta.url), {
        workerData: input,
        transferList: [reply.buffer, ...(region ? [region.memory] : [])],
        trackUnmanagedFds: false,
        resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
      })
      worker.on('message', (message: FromWorker) => {
        if (message.type === 'miss') this.#missesHeard++
        if (message.type !== 'idle') hear(message)
        this.#heard.emit('message')
      })
      worker.once('error', err => {
        // What it had read would never be answered: die loudly, so that a successor has it sent again.
        logger.fatal({ err }, 'a FUSE worker failed')
        process.abort()
      })
      this.#workers.push(worker)
    }
    this.#exited = Promise.all(
      this.#workers.map(worker => new Promise<void>(resolve => worker.once('exit', () => resolve()))),
    )
  }

  /** Every request that is read from here on sees the change. */
  tell(changes: readonly TreeChange[]): void {
    for (const worker of this.#workers) for (const change of changes) worker.postMessage(change)
    Atomics.add(this.#control, CONTROL.generation, 1)
  }

  /** Resolves when no worker works on a request with what it knew before the last change. */
  async settled(): Promise<void> {
    const generation = Atomics.load(this.#control, CONTROL.generation)
    const behind = (_: unknown, worker: number): boolean =>
      Atomics.load(this.#control, CONTROL.busy(worker)) === 1 &&
      Atomics.load(this.#control, CONTROL.seen(worker)) < generation
    await this.#until(() => !this.#workers.some(behind))
  }

  inflight(): InflightRequest[] {
    const requests: InflightRequest[] = []
    for (let at = 0; at < this.#inflight.length; at += INFLIGHT.length) {
      const field = (place: number): number => this.#inflight[at + place] ?? 0
      const opcode = field(INFLIGHT.opcode)
      if (opcode === 0) continue
      const [inode, unique, sinceMs] = [field(INFLIGHT.node), field(INFLIGHT.unique), field(INFLIGHT.sinceMs)]
      requests.push({ inode, opcode, unique, sinceMs: Math.floor(sinceMs) })
    }
    return requests
  }

  /** Everything that was done to counted inodes since the last call. */
  drainAccesses(visit: (access: Access) => void): void {
    for (const [worker, log] of this.#accessLogs.entries()) {
      log.drain(visit)
      const lost = log.takeLost()
      if (lost > 0) this.#options.logger.warn({ worker, lost }, 'accesses to files were not counted')
    }
  }

  /**
   * Each worker ends after its next request; one that gets none stays blocked. Resolves when none works on any and all
   * that they handed on has arrived.
   */
  async stop(): Promise<void> {
    Atomics.store(this.#control, CONTROL.stopping, 1)
    const busy = (_: unknown, worker: number): boolean =>
      Atomics.load(this.#control, CONTROL.busy(worker)) === 1
    const unheard = (): boolean => Atomics.load(this.#control, CONTROL.misses) !== (this.#missesHeard | 0)
    await this.#until(() => !this.#workers.some(busy) && !unheard())
    for (const worker of this.#workers) worker.unref()
  }

  /** Resolves when it is true of the workers, who tell of everything that may make it so. */
  async #until(reached: () => boolean): Promise<void> {
    this.#awaiting++
    Atomics.store(this.#control, CONTROL.awaited, 1)
    try {
      while (!reached()) await once(this.#heard, 'message')
    } finally {
      if (--this.#awaiting === 0) Atomics.store(this.#control, CONTROL.awaited, 0)
    }
  }

  /** Resolves when every worker has ended. */
  async exited(): Promise<void> {
    await this.#exited
  }
}
