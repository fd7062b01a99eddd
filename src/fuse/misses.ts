import { setMaxListeners } from 'node:events'
import { readSync, writeSync } from 'node:fs'
import type { CachedBlob } from '../cache/cached-blob.js'
import { asFault, fault, hasErrno, isFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { allocateAligned } from '../native/cachefiles.js'
import type { HandedMiss, Miss } from './messages.js'
import { ERRNO, OPCODE, REPLY_HEADER } from './protocol.js'
import { Reply, REPLY_BYTES } from './reply.js'
import type { InflightRequest } from './server.js'

/** INTERRUPTs that came before the request that they are for: two threads brought them. */
const MAX_EARLY_INTERRUPTS = 64

export interface MissOptions {
  readonly sessionFd: number
  readonly logger: Logger
  /** The blobs of an image; undefined when it is not shown any more. */
  readonly blobsOf: (sequence: number) => readonly CachedBlob[] | undefined
  /** Told of each answer. */
  readonly answered: (miss: HandedMiss, errno: number) => void
}

interface Pending {
  readonly miss: HandedMiss
  readonly stop: AbortController
  errno: number
  done: Promise<void>
}

/** READs that wait for their bytes. Answers are written here: a write to the device does not block. */
export class Misses {
  readonly #options: MissOptions
  readonly #pending = new Map<string, Pending>()
  readonly #early = new Set<string>()
  /** One for all: it is filled and written without a pause. */
  readonly #reply = new Reply(allocateAligned(REPLY_BYTES))

  constructor(options: MissOptions) {
    this.#options = options
  }

  add(miss: HandedMiss): void {
    const key = keyOf(miss.uniqueLow, miss.uniqueHigh)
    const stop = new AbortController()
    // Each chunk of a large read listens.
    setMaxListeners(0, stop.signal)
    const pending = { miss, stop, errno: ERRNO.EINTR, done: Promise.resolve() }
    this.#pending.set(key, pending)
    if (this.#early.delete(key)) pending.stop.abort()
    pending.done = this.#serve(pending).finally(() => this.#pending.delete(key))
  }

  /** The caller does not want its answer any more. */
  interrupt(uniqueLow: number, uniqueHigh: number): void {
    const key = keyOf(uniqueLow, uniqueHigh)
    const pending = this.#pending.get(key)
    if (pending) return pending.stop.abort()
    this.#early.add(key)
    const oldest = this.#early.keys().next()
    if (this.#early.size > MAX_EARLY_INTERRUPTS && !oldest.done) this.#early.delete(oldest.value)
  }

  /** Answers what waits for an image with ESTALE. Resolves when nothing uses its blobs. */
  async giveUp(sequence: number): Promise<void> {
    const waiting = [...this.#pending.values()].filter(({ miss }) => miss.sequence === sequence)
    for (const pending of waiting) {
      pending.errno = ERRNO.ESTALE
      pending.stop.abort()
    }
    await Promise.all(waiting.map(({ done }) => done))
  }

  /** Resolves when nothing waits. */
  async idle(): Promise<void> {
    while (this.#pending.size > 0) await Promise.all([...this.#pending.values()].map(({ done }) => done))
  }

  list(): InflightRequest[] {
    return [...this.#pending.values()].map(({ miss }) => ({
      inode: miss.node,
      opcode: OPCODE.READ,
      unique: miss.uniqueLow + (miss.uniqueHigh & 0x1f_ffff) * 2 ** 32,
      sinceMs: Math.floor(miss.sinceMs),
    }))
  }

  async #serve(pending: Pending): Promise<void> {
    const { miss, stop } = pending
    let errno = 0
    try {
      const blobs = this.#options.blobsOf(miss.sequence)
      if (!blobs) {
        errno = ERRNO.ESTALE
      } else {
        const { signal } = stop
        await Promise.all(
          miss.pieces.map(({ blobIndex, offset, length }) =>
            blobOf(blobs, blobIndex).ensure(offset, length, { kind: 'demand', signal }),
          ),
        )
        this.#fill(miss, blobs)
      }
    } catch (err) {
      errno = stop.signal.aborted ? pending.errno : this.#failed(miss, err)
    }
    this.#write(this.#reply.finish(miss.uniqueLow, miss.uniqueHigh, errno, errno === 0 ? miss.length : 0))
    this.#options.answered(miss, errno)
  }

  #fill(miss: Miss, blobs: readonly CachedBlob[]): void {
    const { bytes } = this.#reply
    const local = miss.pieces.reduce((sum, { length }) => sum + length, 0)
    if (local < miss.length) bytes.fill(0, REPLY_HEADER, REPLY_HEADER + miss.length)
    for (const { at, length, blobIndex, offset } of miss.pieces) {
      const { fillFd, blobId } = blobOf(blobs, blobIndex)
      for (let done = 0; done < length;) {
        const count = readSync(fillFd, bytes, REPLY_HEADER + at + done, length - done, offset + done)
        if (count === 0) throw fault('CACHE_IO', `the cache file of blob ${blobId} ends at ${offset + done}`)
        done += count
      }
    }
  }

  #failed(miss: Miss, err: unknown): number {
    const failure = asFault(err, 'CACHE_IO')
    const { sequence, ino, length } = miss
    this.#options.logger.error({ err: failure, image: sequence, ino, length }, 'a read is failed')
    return isFault(failure, 'CACHE_FULL') ? ERRNO.ENOSPC : ERRNO.EIO
  }

  #write(length: number): void {
    try {
      writeSync(this.#options.sessionFd, this.#reply.bytes, 0, length)
    } catch (err) {
      // ENOENT: the reader was killed meanwhile. The others: it is unmounted, or was aborted.
      if (['ENOENT', 'ENODEV', 'ECONNABORTED'].some(name => hasErrno(err, name))) return
      this.#options.logger.error({ err }, 'the kernel does not take an answer')
    }
  }
}

function keyOf(uniqueLow: number, uniqueHigh: number): string {
  return `${uniqueHigh}:${uniqueLow}`
}

function blobOf(blobs: readonly CachedBlob[], index: number): CachedBlob {
  const blob = blobs[index]
  if (!blob) throw fault('RAFS_FIELD', `a file has bytes in blob ${index}, which the image has not`)
  return blob
}
