/**
 * The contract of a storage backend: stored (compressed) bytes of blobs, by range. Nothing here knows chunks.
 */

/** Who asks: decides urgency, retry budget and metrics. A waiting reader overtakes everything. */
export type RequestKind = 'demand' | 'readahead' | 'prefetch'

export interface ReadOptions {
  kind: RequestKind
  signal?: AbortSignal
  /**
   * Memory of `length` bytes that the answer may be put into; it is the reader's until `read` has settled. What `read`
   * resolves with counts: a reader that has the bytes elsewhere says so.
   */
  into?: Uint8Array
  /**
   * Told while the answer arrives, by readers that can: the first `done` bytes of what `read` will resolve with are
   * final. They count even where the read fails later.
   */
  onBytes?: (bytes: Uint8Array, done: number) => void
}

/** Reads one stored blob. Safe for concurrent calls. */
export interface BlobReader {
  /** 64 hex digits. */
  readonly blobId: string
  /** Stored size in bytes, asked of the backend once and remembered. @throws REGISTRY_* faults */
  size(options: ReadOptions): Promise<number>
  /**
   * Exactly `length` stored bytes at `offset`; retried with backoff inside, resumed where a body was cut short.
   * @throws REGISTRY_UNAVAILABLE (retryable) after the retries, REGISTRY_UNAUTHORIZED, REGISTRY_NOT_FOUND, CANCELLED
   */
  read(offset: number, length: number, options: ReadOptions): Promise<Uint8Array>
}

/** One place that blobs come from: a repository on a registry, a directory, a bucket. */
export interface Backend {
  /** Upstream's type word: `registry`, `localfs`, `oss`, `s3`, … */
  readonly type: string
  /** Opens a blob without asking the network. */
  open(blobId: string): BlobReader
  /**
   * Takes other credentials from now on (base64 of `user:password`), where the backend has any.
   * @throws CREDENTIALS_INVALID
   */
  setAuth?(auth: string): void
  /** Ends pooled connections; calls under way fail with CANCELLED. Idempotent. */
  close(): Promise<void>
}
