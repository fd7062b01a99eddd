import { closeSync, constants, fdatasync, fsync, openSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import type { Logger } from '../common/log.js'
import type { CacheFile } from './cache-file.js'
import type { ReadyMaps } from './ready-maps.js'

const syncData = promisify(fdatasync)
const syncAll = promisify(fsync)

export interface WriteBackOptions {
  /** Written and not yet flushed bytes at which a flush begins at once. */
  syncBytes: number
  /** Time without a write after which a flush begins, in milliseconds. */
  syncIdleMs: number
}

/**
 * Turns written chunks into durable ones: in batches, off the readers' path. Bytes are flushed first, then their bits
 * are set in the durable map.
 */
export class WriteBack {
  readonly #file: CacheFile
  readonly #maps: ReadyMaps
  readonly #options: WriteBackOptions
  readonly #logger: Logger
  readonly #flushed: () => void
  readonly #lost: (chunks: readonly number[]) => void
  #chunks: number[] = []
  #bytes = 0
  #timer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #named = false

  /**
   * @param flushed called after each flush that made chunks durable
   * @param lost called with chunks that the disk could not take: their bytes may be gone from memory too
   */
  constructor(
    file: CacheFile,
    maps: ReadyMaps,
    options: WriteBackOptions,
    logger: Logger,
    flushed: () => void,
    lost: (chunks: readonly number[]) => void,
  ) {
    this.#file = file
    this.#maps = maps
    this.#options = options
    this.#logger = logger
    this.#flushed = flushed
    this.#lost = lost
  }

  /** Takes note of a chunk that is written. */
  add(chunk: number, bytes: number): void {
    this.#chunks.push(chunk)
    this.#bytes += bytes
    if (this.#bytes >= this.#options.syncBytes) {
      void this.flush()
    } else if (this.#timer) {
      this.#timer.refresh()
    } else {
      this.#timer = setTimeout(() => void this.flush(), this.#options.syncIdleMs).unref()
    }
  }

  /** Flushes all that is written by now. Never rejects: what could not be flushed is logged and not durable. */
  async flush(): Promise<void> {
    while (this.#running) await this.#running
    if (this.#chunks.length === 0) return
    this.#running = this.#flushOnce().finally(() => (this.#running = undefined))
    await this.#running
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer)
    await this.flush()
  }

  async #flushOnce(): Promise<void> {
    const chunks = this.#chunks
    this.#chunks = []
    this.#bytes = 0
    const about = { path: this.#file.path, chunks: chunks.length }
    try {
      await syncData(this.#file.fd)
    } catch (err) {
      // The kernel may have dropped these bytes and says so once: nothing but a new fetch makes them sure again.
      this.#logger.error(
        { err, ...about },
        'chunks could not be written to the disk: they are fetched again when asked for; look at the kernel log',
      )
      this.#lost(chunks)
      return
    }
    try {
      await this.#syncName()
      await this.#maps.setDurable(chunks)
    } catch (err) {
      const advice = 'they are fetched again after a restart; look at the disk of the cache directory'
      this.#logger.error({ err, ...about }, `it cannot be noted that chunks are on the disk: ${advice}`)
      return
    }
    this.#flushed()
  }

  /** Once: makes sure that the file's name is on the disk before any bit about its contents. */
  async #syncName(): Promise<void> {
    if (this.#named) return
    const fd = openSync(path.dirname(this.#file.path), constants.O_RDONLY)
    try {
      await syncAll(fd)
      this.#named = true
    } finally {
      closeSync(fd)
    }
  }
}
