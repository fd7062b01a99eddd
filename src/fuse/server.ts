/**
 * The contract of the FUSE server towards the daemon: one FUSE mount that shows any number of images, each below a path
 * of its own (Linux FUSE protocol 7; upstream's virtual file system of one daemon).
 *
 * Requests are taken by worker threads blocked in a read of /dev/fuse. A worker answers whatever is local: all metadata
 * (from the bootstrap) and ready bytes (from the cache file). A read of what is missing goes to the main thread, which
 * ensures it and answers itself. No worker ever waits for the network.
 */
import type { CachedBlob } from '../cache/cached-blob.js'
import type { KeptDescriptor } from '../cache/driver.js'
import type { Logger } from '../common/log.js'

/** An image as the server shows it. */
export interface ServedImage {
  /** Where it is shown in the mount: `/` or `/name` or deeper; directories on the way are made up. */
  readonly path: string
  /** Open for reading, the caller's; it must stay open until the image is hidden. Replacing the path does no harm. */
  readonly bootstrapFd: number
  /** In the order of the image's blob table. The workers read through `fillFd`. */
  readonly blobs: readonly CachedBlob[]
  readonly accounting: Accounting
}

/** What is counted for each inode; all off by default (upstream's iostats_files, access_pattern, latest_read_files). */
export interface Accounting {
  readonly files: boolean
  readonly pattern: boolean
  readonly latest: boolean
}

/** The order of upstream's per-operation arrays (nydusd 2.x metrics). */
export const OPERATIONS = [
  'getattr',
  'readlink',
  'open',
  'release',
  'read',
  'statfs',
  'getxattr',
  'listxattr',
  'opendir',
  'lookup',
  'readdir',
  'readdirplus',
  'access',
  'forget',
  'batchForget',
] as const
export type Operation = (typeof OPERATIONS)[number]
/** Place of `read` among them. */
export const READ_OPERATION = OPERATIONS.indexOf('read')

/** What was done for one image since it is shown; values only grow. Arrays are indexed as upstream's. */
export interface ImageStats {
  readonly opens: number
  readonly dataReadBytes: number
  /** Reads by size: below 1 KiB, 4, 16, 64, 128, 512 KiB, 1 MiB, more. */
  readonly readsBySize: readonly number[]
  readonly hits: readonly number[]
  readonly errors: readonly number[]
  /** Microseconds; only reads are measured. */
  readonly latencyTotalUs: readonly number[]
  /** Reads by latency: up to 200 us, 1 ms, 20 ms, 50 ms, 500 ms, 1 s, 2 s, more. */
  readonly readsByLatency: readonly number[]
}

export interface FileStats {
  readonly ino: number
  readonly totalOperations: number
  readonly dataReadBytes: number
  readonly readsBySize: readonly number[]
  readonly hits: readonly number[]
  readonly errors: readonly number[]
  /** First read; undefined before one. Milliseconds since 1970. */
  readonly firstReadMs: number | undefined
}

/** A request that is being worked on at this moment. */
export interface InflightRequest {
  readonly inode: number
  readonly opcode: number
  readonly unique: number
  readonly sinceMs: number
}

/** What a successor needs beside the descriptor: the kernel sends INIT only once, and knows inode numbers. JSON. */
export interface FuseState {
  readonly version: 1
  /** Names of the INIT flags and limits that were agreed upon. */
  readonly init: Readonly<Record<string, number>>
  /** Number of each shown image, from which its inodes have theirs, and the made-up directory that it stands on. */
  readonly images: readonly { readonly path: string; readonly sequence: number; readonly directory: number }[]
  /** Made-up directories; the parent may be an inode of an image. */
  readonly directories: readonly { readonly ino: number; readonly parent: number; readonly name: string }[]
  readonly nextSequence: number
  readonly nextDirectory: number
  /** Of /sys/fs/fuse/connections. */
  readonly connection: number
  /** Times of the made-up directories. */
  readonly createdSec: number
}

/** How a successor gets at requests that its predecessor has read and not answered. */
export type FailoverPolicy = 'none' | 'resend' | 'flush' | 'journal'

export interface FuseServerOptions {
  /** An existing directory. */
  readonly mountpoint: string
  readonly logger: Logger
  /** Threads that take requests. Default: as many as processors, at most 4. */
  readonly workers?: number
  /** How far the kernel reads ahead: the size of one READ of a sequential reader, up to 1024. */
  readonly readAheadKb?: number
  /** Default `resend`; where the kernel cannot do it, as before Linux 6.9, it is `journal`. */
  readonly failover?: FailoverPolicy
  /** For `journal`: a file on /run. Without it, callers wait for ever when the daemon is killed on such a kernel. */
  readonly journalPath?: string
  /** The mount of a predecessor is taken over, without mounting; the descriptor is the server's from then on. */
  readonly predecessor?: { readonly state: FuseState; readonly sessionFd: number }
}

export interface FuseServer {
  /** Absolute and real. */
  readonly mountpoint: string
  /**
   * Shows an image; returns when every later request sees it. What was at its path is covered until it is hidden.
   * @throws INSTANCE_EXISTS, RAFS_*, CONFIG_INVALID (no such path)
   */
  show(image: ServedImage): Promise<void>
  /**
   * Hides it: names below it are forgotten by the kernel, later requests for its inodes fail with ESTALE. Returns when no
   * worker uses its descriptors any more. Made-up directories go with the last image below them.
   * @throws INSTANCE_UNKNOWN, INSTANCE_BUSY (another image is shown inside this one)
   */
  hide(path: string): Promise<void>
  /** Begins to take requests; with descriptors of a predecessor the kernel is asked to send again what that one left. */
  start(): Promise<void>
  state(): FuseState
  /** The kept descriptor: `fuse.session`. */
  descriptors(): KeptDescriptor[]
  /** @throws INSTANCE_UNKNOWN */
  stats(path: string): ImageStats
  /** Per inode, for images that count it; empty for others. @throws INSTANCE_UNKNOWN */
  fileStats(path: string): Promise<FileStats[]>
  /** Inodes read since the last call, ascending, as upstream's ranges. @throws INSTANCE_UNKNOWN */
  takeLatestReads(path: string): Promise<readonly (readonly [number] | readonly [number, number])[]>
  inflight(): InflightRequest[]
  /** Unmounts (lazily); requests in flight are still answered. */
  unmount(): Promise<void>
  /** Resolves when somebody unmounted it, or the connection was aborted. */
  readonly ended: Promise<void>
  /**
   * Stops taking requests without unmounting; what is in flight is answered first. Workers that are blocked in the kernel
   * stay there until the process ends: the caller ends it with `endProcess` of src/native/process.ts.
   */
  stop(): Promise<void>
}
