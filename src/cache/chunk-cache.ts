import { closeSync, constants, fstatSync, mkdirSync, openSync, readdirSync, rmSync, statSync } from 'node:fs'
import path from 'node:path'
import type { BlobReader } from '../backend/reader.js'
import { isBlobId } from '../common/digest.js'
import { fault } from '../common/fault.js'
import { type Logger, silentLogger } from '../common/log.js'
import { tryLock } from '../native/file.js'
import { CacheBlob } from './cache-blob.js'
import { CacheFile, ioFault } from './cache-file.js'
import type { CachedBlob } from './cached-blob.js'
import { FetchPlanner } from './fetch-planner.js'
import type { LayoutSource } from './layout.js'
import { READY_BLOCK } from './ready-blocks.js'
import { ReadyMaps } from './ready-maps.js'
import { BlobStats, type CacheCounters, createCounters } from './stats.js'
import { readBootId } from './written-map.js'

const MIB = 1024 * 1024
/** Bytes are fetched ahead of one that has read twice as many in a row: less would leave a fast registry waiting. */
const READAHEAD_BYTES = 32 * MIB
/**
 * Of one request ahead: half of the window, so that one is on its way while the other is read. A registry pays for each
 * range (docker-registry takes 5 ms of processor, for a buffer of 4 MiB), and ranges side by side share the line while
 * the reader waits for the first; but whoever wants a chunk of a range in flight waits for what is before it.
 */
const READAHEAD_REQUEST_BYTES = 16 * MIB

export interface ChunkCacheOptions {
  /** Upstream's work_dir: the files of all blobs. Created where it is missing. */
  directory: string
  logger?: Logger
  /** Bound of bytes fetched and not yet written, of all blobs. Default 64 MiB. */
  memoryBytes?: number
  /** Bound of backend requests in flight, of all blobs. Default 16. */
  maxRequests?: number
  /** Neighbouring misses are merged into requests of up to this size. Default 1 MiB. */
  batchBytes?: number
  /** Most that is fetched ahead of a sequential reader; 0 for never. Default 32 MiB. */
  readaheadBytes?: number
  /** How long a failure is told to others without a new try. Default 1000. */
  failureWindowMs?: number
  /** Written bytes of a blob at which they are flushed to the disk. Default 64 MiB. */
  syncBytes?: number
  /** Time without a write after which a blob is flushed. Default 2000. */
  syncIdleMs?: number
  /** Identity of this boot, for tests. Default the kernel's. */
  bootId?: string
  /** Monotonic clock in milliseconds, for tests. */
  now?: () => number
}

export interface OpenBlobOptions {
  /** 64 hex digits. */
  blobId: string
  /** Size of the uncompressed address space, a multiple of 4096. */
  sizeBytes: number
  /** Chunks in the blob, where the image says so: with it a complete blob is known as complete without metadata. */
  chunkCount?: number
  layoutSource: LayoutSource
  reader: BlobReader
  /** False: digests are not checked. Default true. One image that wants them checked decides. */
  validate?: boolean
  /**
   * The fill descriptor of a predecessor whose marks are still on the file: a new one would raise events. Taken over by
   * the blob, unless opening fails or the blob is open already.
   */
  fillFd?: number
}

interface OpenBlob {
  readonly opening: Promise<CacheBlob>
  readonly sizeBytes: number
  users: number
}

/** The chunk cache of one directory: all its blobs under one budget of memory and requests. */
export class ChunkCache {
  readonly directory: string
  /** What was done for all blobs since the cache was opened. */
  readonly counters: CacheCounters = createCounters()
  readonly #options: ChunkCacheOptions
  readonly #logger: Logger
  readonly #planner: FetchPlanner
  readonly #bootId: string
  readonly #blobs = new Map<string, OpenBlob>()
  /** Closed by their last user and still flushing. */
  readonly #closing = new Map<string, Promise<void>>()

  #lockFd: number
  #closed = false

  private constructor(options: ChunkCacheOptions, lockFd: number) {
    this.#options = options
    this.#lockFd = lockFd
    this.directory = options.directory
    this.#logger = options.logger ?? silentLogger
    this.#bootId = options.bootId ?? readBootId()
    this.#planner = new FetchPlanner({
      memoryBytes: options.memoryBytes ?? 64 * MIB,
      maxRequests: options.maxRequests ?? 16,
      batchBytes: options.batchBytes ?? MIB,
      readaheadBatchBytes: READAHEAD_REQUEST_BYTES,
    })
  }

  /**
   * Opens the cache of a directory, which one process at a time may use: two would lose each other's bits.
   * @throws STORE_LOCKED, CACHE_IO
   */
  static open(options: ChunkCacheOptions): ChunkCache {
    const { directory } = options
    let lockFd: number | undefined
    try {
      lockFd = lockDirectory(directory)
      // What a killed predecessor had not renamed yet.
      for (const name of readdirSync(directory)) {
        if (name.endsWith('.new')) rmSync(path.join(directory, name), { force: true })
      }
      return new ChunkCache(options, lockFd)
    } catch (err) {
      if (lockFd !== undefined) closeSync(lockFd)
      throw ioFault(err, `cannot use ${directory} as cache directory`)
    }
  }

  /** Bytes held at this moment for chunks on their way into cache files. */
  get heldBytes(): number {
    return this.#planner.heldBytes
  }

  /** Backend requests in flight at this moment. */
  get requestsInFlight(): number {
    return this.#planner.requestsInFlight
  }

  /** The blobs that are open. */
  async blobs(): Promise<CacheBlob[]> {
    const settled = await Promise.allSettled([...this.#blobs.values()].map(blob => blob.opening))
    return settled.filter(result => result.status === 'fulfilled').map(result => result.value)
  }

  /**
   * Opens a blob without asking the network. Images that share a blob get one object: each brings its reader and its
   * digests, and closes it for itself.
   * @throws CACHE_IO, CACHE_RANGE, BLOB_META_INVALID
   */
  async openBlob(options: OpenBlobOptions): Promise<CachedBlob> {
    const { blobId, sizeBytes } = options
    if (this.#closed) throw fault('CANCELLED', 'the chunk cache was closed')
    if (!isBlobId(blobId)) throw fault('CACHE_RANGE', `${JSON.stringify(blobId)} is not a blob id`)
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes % READY_BLOCK !== 0) {
      throw fault('CACHE_RANGE', `${sizeBytes} bytes are not whole blocks: convert the image again`)
    }
    let open = this.#blobs.get(blobId)
    if (open && open.sizeBytes !== sizeBytes) {
      throw fault(
        'BLOB_META_INVALID',
        `two images say ${open.sizeBytes} and ${sizeBytes} bytes for blob ${blobId}: convert them again`,
      )
    }
    if (!open) {
      open = { opening: this.#open(options), sizeBytes, users: 0 }
      this.#blobs.set(blobId, open)
    }
    open.users++
    try {
      const blob = await open.opening
      await blob.addOrigin(options, options.validate ?? true)
      return blob
    } catch (err) {
      await this.#release(blobId, open)
      throw err
    }
  }

  /** Ends one image's use of a blob; `reader` is the one that it brought. The last one closes the files. */
  async closeBlob(blob: CachedBlob, reader: BlobReader): Promise<void> {
    const open = this.#blobs.get(blob.blobId)
    if (!open || (await open.opening) !== blob) return
    if (open.users > 1) (await open.opening).removeOrigin({ reader })
    await this.#release(blob.blobId, open)
  }

  /**
   * Takes the files of a blob that no image has open.
   * @throws INSTANCE_BUSY, CACHE_UNKNOWN_BLOB (there are none), CACHE_IO
   */
  async cull(blobId: string): Promise<void> {
    await this.#closing.get(blobId)
    if (this.#blobs.has(blobId))
      throw fault('INSTANCE_BUSY', `blob ${blobId} is used by an image: unmount or unbind that first`)
    const prefix = `${blobId}.blob.`
    try {
      const names = readdirSync(this.directory).filter(name => name.startsWith(prefix))
      if (names.length === 0)
        throw fault('CACHE_UNKNOWN_BLOB', `nothing of blob ${JSON.stringify(blobId.slice(0, 80))} is cached`)
      for (const name of names) rmSync(path.join(this.directory, name))
    } catch (err) {
      throw ioFault(err, `cannot remove blob ${blobId} from ${this.directory}`)
    }
  }

  /** Closes all blobs, flushed, and gives the directory free. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const blobs = await this.blobs()
    this.#blobs.clear()
    await Promise.all([...blobs.map(blob => blob.close()), ...this.#closing.values()])
    closeSync(this.#lockFd)
  }

  /** Makes the directory again if somebody removed it below us: what is open goes on without names. */
  #ensureDirectory(): void {
    try {
      const named = statSync(this.directory, { throwIfNoEntry: false })
      const own = fstatSync(this.#lockFd)
      if (named?.ino === own.ino && named.dev === own.dev) return
      const lockFd = lockDirectory(this.directory)
      closeSync(this.#lockFd)
      this.#lockFd = lockFd
      this.#logger.warn({ directory: this.directory }, 'the cache directory was removed: it is made again')
    } catch (err) {
      throw ioFault(err, `cannot use ${this.directory} as cache directory`)
    }
  }

  async #release(blobId: string, open: OpenBlob): Promise<void> {
    open.users--
    if (open.users > 0) return
    if (this.#blobs.get(blobId) === open) this.#blobs.delete(blobId)
    const closing = open.opening.then(
      blob => blob.close(),
      () => undefined,
    )
    this.#closing.set(blobId, closing)
    await closing
    if (this.#closing.get(blobId) === closing) this.#closing.delete(blobId)
  }

  async #open(options: OpenBlobOptions): Promise<CacheBlob> {
    const { blobId, sizeBytes, chunkCount, validate = true, fillFd } = options
    await this.#closing.get(blobId)
    this.#ensureDirectory()
    const dataPath = path.join(this.directory, `${blobId}.blob.data`)
    const file = CacheFile.open({
      path: dataPath,
      sizeBytes,
      forget: () => ReadyMaps.forget(dataPath),
      ...(fillFd === undefined ? {} : { fillFd }),
    })
    try {
      return new CacheBlob(
        {
          blobId,
          sizeBytes,
          chunkCount,
          validate,
          readaheadBytes: this.#options.readaheadBytes ?? READAHEAD_BYTES,
          failureWindowMs: this.#options.failureWindowMs ?? 1000,
          syncBytes: this.#options.syncBytes ?? 64 * MIB,
          syncIdleMs: this.#options.syncIdleMs ?? 2000,
          bootId: this.#bootId,
          now: this.#options.now ?? (() => performance.now()),
        },
        { file, planner: this.#planner, logger: this.#logger, stats: new BlobStats(this.counters) },
      )
    } catch (err) {
      file.close()
      throw err
    }
  }
}

/** Makes the directory where it is missing and locks it; the lock is of the descriptor. @throws STORE_LOCKED */
function lockDirectory(directory: string): number {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY)
  if (tryLock(fd)) return fd
  closeSync(fd)
  throw fault('STORE_LOCKED', `${directory} is used by another daemon: stop it, or use another directory`)
}
