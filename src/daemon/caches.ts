import { mkdirSync, realpathSync } from 'node:fs'
import { ChunkCache } from '../cache/chunk-cache.js'
import { asFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'

interface OpenCache {
  readonly cache: ChunkCache
  users: number
}

/**
 * The chunk caches of this process, one a directory: a directory is locked to one process, and whoever names it within
 * the process means the same cache.
 */
export class Caches {
  readonly #logger: Logger
  readonly #open = new Map<string, OpenCache>()
  /** Left by their last user and still flushing. */
  readonly #closing = new Map<string, Promise<void>>()

  constructor(logger: Logger) {
    this.#logger = logger
  }

  /** The cache of a directory, which is created where it is missing. @throws STORE_LOCKED, CACHE_IO */
  async open(directory: string): Promise<ChunkCache> {
    const real = realDirectory(directory)
    for (let closing = this.#closing.get(real); closing; closing = this.#closing.get(real)) await closing
    let open = this.#open.get(real)
    if (!open) {
      open = { cache: ChunkCache.open({ directory: real, logger: this.#logger }), users: 0 }
      this.#open.set(real, open)
    }
    open.users++
    return open.cache
  }

  /** Lets go of a cache; with its last user it is flushed and its directory given free. */
  async close(cache: ChunkCache): Promise<void> {
    const { directory } = cache
    const open = this.#open.get(directory)
    if (open?.cache !== cache) return
    open.users--
    if (open.users > 0) return
    this.#open.delete(directory)
    const closing = cache.close().finally(() => this.#closing.delete(directory))
    this.#closing.set(directory, closing)
    await closing
  }

  /** Closes all, whoever still uses them. */
  async closeAll(): Promise<void> {
    const caches = [...this.#open.values()]
    this.#open.clear()
    await Promise.all([...caches.map(({ cache }) => cache.close()), ...this.#closing.values()])
  }
}

function realDirectory(directory: string): string {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    return realpathSync(directory)
  } catch (err) {
    throw asFault(err, 'CACHE_IO', `cannot use ${directory} as cache directory`)
  }
}
