/**
 * The contract of the chunk cache towards the drivers.
 *
 * Invariant: a range reported ready was digest-checked (unless checking is switched off) and written to the cache
 * file before it was reported, and stays there until eviction.
 */
import type { RequestKind } from '../backend/reader.js'

export interface EnsureOptions {
  kind: RequestKind
  signal?: AbortSignal
}

/**
 * Which 4096-byte blocks of the blob's uncompressed address space are local, one bit a block, bit `b & 31` of
 * 32-bit word `b >> 5`, in memory that worker threads may share (read with Atomics.load). A bit is cleared
 * only when the disk could not take what it stands for: the next reader asks for it again. Padding between chunks counts as ready.
 */
export type ReadyBlocks = Int32Array<SharedArrayBuffer>

export interface CachedBlob {
  readonly blobId: string
  /** The sparse cache file, uncompressed, at uncompressed addresses; it is the EROFS device itself. */
  readonly path: string
  /** Open for reading and writing since before any mark: the only descriptor to write through. */
  readonly fillFd: number
  /** Device identity of the cache file, as in an event's fstat. */
  readonly dev: number
  readonly ino: number
  /** Size of the cache file and of the device: a multiple of 4096. */
  readonly sizeBytes: number
  readonly readyBlocks: ReadyBlocks
  /** True when every chunk is ready. */
  readonly complete: boolean
  /** True when every chunk is ready and on the disk (after fdatasync). */
  readonly durable: boolean
  /** In memory, no I/O. */
  isReady(offset: number, length: number): boolean
  /**
   * Resolves when every byte of the range is in the cache file. Misses are fetched once however many ask, near ones
   * merged into one request. A chunk whose fetch just failed fails again at once for about a second.
   * @throws the backend's faults, CHUNK_DIGEST_MISMATCH, CHUNK_DECODE, CACHE_FULL, CACHE_IO
   */
  ensure(offset: number, length: number, options: EnsureOptions): Promise<void>
  /** Called once, when the blob becomes complete and durable; at once if it already is. */
  onDurable(callback: () => void): void
}
