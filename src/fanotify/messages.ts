import type { ReadyBlocks } from '../cache/cached-blob.js'

/** What one read of the group may return: some thousand events, none of which is in the journal yet. */
export const EVENT_BUFFER_BYTES = 64 * 1024

/** What the event worker is started with. Descriptors are shared: threads of one process have one table. */
export interface WorkerInput {
  readonly groupFd: number
  readonly journalPath: string
  readonly doorbell: FileIdentity
  /** Int32Array over shared memory, see COUNTERS. */
  readonly counters: Int32Array<SharedArrayBuffer>
  /** What is watched from the first event on: an event of a file that is not known would be denied. */
  readonly watched: readonly WatchedFile[]
  readonly proberPid: number
  /** How many misses may be unanswered before the worker stops reading: each holds a descriptor. */
  readonly pendingLimit: number
}

export interface FileIdentity {
  readonly dev: number
  readonly ino: number
}

/** A blob's cache file, as the worker needs it. */
export interface WatchedFile extends FileIdentity {
  readonly readyBlocks: ReadyBlocks
  readonly sizeBytes: number
}

/** Indexes into the shared counters. */
export const COUNTERS = { pending: 0, answered: 1, denied: 2, length: 3 } as const

/** Main thread to worker; delivered when the doorbell rings, since a worker blocked in read hears nothing. */
export type ToWorker =
  | { readonly type: 'watch'; readonly file: WatchedFile }
  | ({ readonly type: 'forget' } & FileIdentity)
  | { readonly type: 'prober'; readonly pid: number }
  | { readonly type: 'sync'; readonly sequence: number }
  | { readonly type: 'stop' }

/** An event whose bytes are not local: the main thread fetches and answers it. */
export interface Miss extends FileIdentity {
  readonly eventFd: number
  readonly offset: number
  readonly count: number
}

export type FromWorker =
  | { readonly type: 'misses'; readonly misses: readonly Miss[] }
  /** Everything posted before the `sync` with this number is in force. */
  | { readonly type: 'synced'; readonly sequence: number }
  /** Events were lost to their readers: `overflow` reads were let through unfilled, `descriptors` were denied. */
  | {
      readonly type: 'lost'
      readonly reason: 'overflow' | 'descriptors' | 'unknown-file'
      readonly detail: string
    }
