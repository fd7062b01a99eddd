/** What the main thread and the workers of a FUSE server tell each other, and the memory that they share. */
import type { ReadyBlocks } from '../cache/cached-blob.js'
import type { JournalRegion } from './request-journal.js'
import type { MadeDirectory, PlacedImage } from './virtual-tree.js'

/** A shown image as a worker knows it. Descriptors are shared: threads of one process have one table. */
export interface WorkerImage extends PlacedImage {
  readonly bootstrapFd: number
  readonly blobs: readonly WorkerBlob[]
  /** See counters.ts; the worker's own line is that of its number. */
  readonly counters: SharedArrayBuffer
  /** True: what is done to each inode goes to the access log. */
  readonly accounted: boolean
}

export interface WorkerBlob {
  readonly fillFd: number
  readonly sizeBytes: number
  readonly readyBlocks: ReadyBlocks
}

export interface WorkerInput {
  readonly number: number
  readonly sessionFd: number
  /** Numbers of the session, see init.ts. */
  readonly session: Readonly<Record<string, number>>
  readonly createdSec: number
  readonly control: Int32Array<SharedArrayBuffer>
  readonly inflight: Float64Array<SharedArrayBuffer>
  readonly accessLog: SharedArrayBuffer
  /** What answers are put together in: the worker's own, which cannot ask for memory that begins at a page. */
  readonly reply: Uint8Array<ArrayBuffer>
  /** What requests are read into; undefined where the kernel remembers them. */
  readonly journal: JournalRegion | undefined
  /** What is there at the start. */
  readonly changes: readonly TreeChange[]
}

/** Places in the control words: four of all, then two for each worker. */
export const CONTROL = {
  /** Counts changes of the tree: a worker that sees a new number hears its messages before it goes on. */
  generation: 0,
  /** 1: workers end after the request that they have. */
  stopping: 1,
  /** Misses that were posted; the main thread may not have heard of all. */
  misses: 2,
  /** 1: the main thread waits for busy workers, who are to tell it when they have done. */
  awaited: 3,
  /** Of a worker: 1 from before it looks at the generation until it is about to read the next request. */
  busy: (worker: number) => 4 + 2 * worker,
  /** Of a worker: the generation it has heard of. */
  seen: (worker: number) => 5 + 2 * worker,
  length: (workers: number) => 4 + 2 * workers,
} as const

/** Places in a worker's line of what is under way; opcode 0 for nothing. */
export const INFLIGHT = { opcode: 0, node: 1, unique: 2, sinceMs: 3, length: 4 } as const

/** One step of the tree, in order. */
export type TreeChange =
  | { readonly type: 'directory'; readonly directory: MadeDirectory }
  | { readonly type: 'no-directory'; readonly ino: number }
  | { readonly type: 'image'; readonly image: WorkerImage; readonly on: number }
  | { readonly type: 'no-image'; readonly sequence: number }

/** A READ whose bytes are not all local: the main thread fetches and answers. */
export interface Miss {
  readonly uniqueLow: number
  readonly uniqueHigh: number
  readonly node: number
  /** Of the image. */
  readonly sequence: number
  readonly ino: number
  /** Bytes of the answer; what no piece covers is a hole. */
  readonly length: number
  readonly pieces: readonly MissPiece[]
  /** Milliseconds since 1970. */
  readonly sinceMs: number
}

/** A miss as the main thread gets it. */
export interface HandedMiss extends Miss {
  /** Where it is in the journal's file. */
  readonly slot: number | undefined
}

export interface MissPiece {
  /** Place in the answer. */
  readonly at: number
  readonly length: number
  readonly blobIndex: number
  readonly offset: number
}

export type FromWorker =
  /** The request that the main thread waits for is done. */
  WorkerNews | { readonly type: 'idle' }

/** What a worker tells the server. */
export type WorkerNews =
  | { readonly type: 'miss'; readonly miss: HandedMiss }
  | { readonly type: 'interrupt'; readonly uniqueLow: number; readonly uniqueHigh: number }
  /** A request failed for what the image or its cache file holds. */
  | {
      readonly type: 'failed'
      readonly sequence: number
      readonly ino: number
      readonly failure: FailureText
    }
  /** The kernel did not take the answer; it got an error instead. */
  | { readonly type: 'refused'; readonly opcode: number; readonly reason: string }
  /** Half of the access log is unread. */
  | { readonly type: 'accesses' }
  /** The file system is unmounted, or the connection was aborted. */
  | { readonly type: 'ended' }

export interface FailureText {
  readonly code: string
  readonly message: string
}
