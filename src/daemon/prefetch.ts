/**
 * Brings files of a mounted image into the cache before anybody reads them (nydusd.md 8.1). Nothing waits for it: every
 * reader overtakes it, what fails is left to the readers, and it ends with the mount.
 */
import { setMaxListeners } from 'node:events'
import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises'
import type { CachedBlob } from '../cache/cached-blob.js'
import { asFault, isFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { InodeAttributes, InodeReader } from '../erofs/inode-reader.js'

export interface PrefetchPlan {
  /** Absolute paths of files and directories; `/` alone is everything. They take the place of the image's own list. */
  readonly files: readonly string[]
  /** The rest of the image afterwards. */
  readonly all: boolean
  /** Pieces that are fetched at the same time. */
  readonly threads: number
  /** Bytes of a piece. */
  readonly batchBytes: number
  /** Bytes a second; 0 is without limit. */
  readonly bytesPerSecond: number
}

export interface PrefetchImage {
  readonly reader: InodeReader
  readonly blobs: readonly CachedBlob[]
}

export interface PrefetchStats {
  readonly workers: number
  /** Pieces asked for that were not local. */
  readonly requests: number
  readonly bytes: number
  readonly failures: number
  /** Milliseconds since 1970. */
  readonly beganMs: number
  readonly endedMs: number | undefined
}

interface Piece {
  readonly blob: CachedBlob
  readonly offset: number
  readonly length: number
}

/** Pieces of a file are looked up in windows of this size. */
const WINDOW_BYTES = 16 * 1024 * 1024
/** With so many failures something is wrong that more requests do not mend. */
const FAILURE_LIMIT = 32
/** After so many names or local pieces everybody else has a turn. */
const STEPS_A_TURN = 64

export class Prefetch {
  readonly #image: PrefetchImage
  readonly #plan: PrefetchPlan
  readonly #logger: Logger
  readonly #stop = new AbortController()
  readonly #beganMs = Date.now()
  #endedMs: number | undefined
  #requests = 0
  #bytes = 0
  #failures = 0
  /** Of the monotonic clock: when the limit of bytes a second lets the next piece go. */
  #nextMs = 0

  /** Resolves when all is brought in, given up, or stopped; it never rejects. */
  readonly done: Promise<void>

  constructor(image: PrefetchImage, plan: PrefetchPlan, logger: Logger) {
    this.#image = image
    this.#plan = plan
    this.#logger = logger
    // One for each piece under way, which is what is meant.
    setMaxListeners(0, this.#stop.signal)
    this.done = this.#run()
  }

  get stats(): PrefetchStats {
    return {
      workers: this.#plan.threads,
      requests: this.#requests,
      bytes: this.#bytes,
      failures: this.#failures,
      beganMs: this.#beganMs,
      endedMs: this.#endedMs,
    }
  }

  /** Resolves when nothing of it is under way. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.done
  }

  async #run(): Promise<void> {
    // Not in the turn of the mount.
    await nextTurn()
    const pieces = this.#pieces()
    const { threads } = this.#plan
    try {
      await Promise.all(Array.from({ length: threads }, () => this.#work(pieces)))
    } catch (err) {
      this.#logger.warn({ err: asFault(err) }, 'prefetch ends: the readers bring in what is left')
    }
    this.#endedMs = Date.now()
    const { requests, bytes, failures } = this.stats
    this.#logger.info({ requests, bytes, failures, stopped: this.#stopped }, 'prefetch ended')
  }

  get #stopped(): boolean {
    return this.#stop.signal.aborted
  }

  async #work(pieces: Generator<Piece | undefined>): Promise<void> {
    let steps = 0
    while (!this.#stopped) {
      if (++steps % STEPS_A_TURN === 0) await nextTurn()
      const next = pieces.next()
      if (next.done) return
      const piece = next.value
      if (piece && !piece.blob.isReady(piece.offset, piece.length)) await this.#bring(piece)
    }
  }

  async #bring({ blob, offset, length }: Piece): Promise<void> {
    const { signal } = this.#stop
    await this.#pause(length)
    if (this.#stopped) return
    this.#requests++
    try {
      await blob.ensure(offset, length, { kind: 'prefetch', signal })
      this.#bytes += length
    } catch (err) {
      if (this.#stopped || isFault(err, 'CANCELLED')) return
      this.#logger.debug(
        { err: asFault(err), blob: blob.blobId, offset, length },
        'prefetch of a piece failed',
      )
      if (++this.#failures >= FAILURE_LIMIT) throw err
    }
  }

  async #pause(length: number): Promise<void> {
    const { bytesPerSecond } = this.#plan
    if (bytesPerSecond === 0) return
    const now = performance.now()
    const waitMs = this.#nextMs - now
    this.#nextMs = Math.max(now, this.#nextMs) + (length / bytesPerSecond) * 1000
    if (waitMs > 0) await delay(waitMs, undefined, { signal: this.#stop.signal }).catch(() => undefined)
  }

  /** What to bring, in order; undefined for a step that has nothing. */
  *#pieces(): Generator<Piece | undefined, void, undefined> {
    const { files, all } = this.#plan
    const { reader } = this.#image
    const roots = files.length > 0 ? this.#named(files) : reader.prefetchInos()
    const everything = roots.length === 1 && roots[0] === reader.rootIno
    if (!everything) for (const ino of roots) if (ino !== reader.rootIno) yield* this.#tree(ino)
    if (everything || all) yield* this.#everything()
  }

  #named(files: readonly string[]): number[] {
    const { reader } = this.#image
    return files.flatMap(file => {
      const ino = lookupPath(reader, file)
      if (ino === undefined) this.#logger.debug({ file }, 'prefetch: the image has no such path')
      return ino ?? []
    })
  }

  /** A file, or all files below a directory. */
  *#tree(start: number): Generator<Piece | undefined, void, undefined> {
    const { reader } = this.#image
    const open = [start]
    for (let ino = open.pop(); ino !== undefined; ino = open.pop()) {
      const attributes = this.#attributes(ino)
      if (!attributes) continue
      const { type, sizeBytes } = attributes
      if (type === 'regular') yield* this.#file(ino, sizeBytes)
      if (type === 'directory') {
        const children: number[] = []
        reader.readDirectory(ino, 0, (_bytes, _start, _end, child) => children.push(child) > 0)
        for (const child of children.reverse()) open.push(child)
      }
      yield undefined
    }
  }

  /** Undefined where the list of the image names no inode. */
  #attributes(ino: number): InodeAttributes | undefined {
    try {
      return this.#image.reader.attributes(ino)
    } catch (err) {
      this.#logger.debug({ err: asFault(err), ino }, 'prefetch: there is no such inode')
      return undefined
    }
  }

  *#file(ino: number, sizeBytes: number): Generator<Piece, void, undefined> {
    const { reader, blobs } = this.#image
    for (let at = 0; at < sizeBytes; at += WINDOW_BYTES) {
      for (const { blobIndex, offset, length } of reader.extents(ino, at, WINDOW_BYTES)) {
        const blob = blobIndex === undefined ? undefined : blobs[blobIndex]
        if (blob) yield* this.#cut(blob, offset, offset + length)
      }
    }
  }

  /** The blobs as they lie: what no file of this image uses lies in them too, and is left out by the cache. */
  *#everything(): Generator<Piece, void, undefined> {
    for (const blob of this.#image.blobs) if (!blob.complete) yield* this.#cut(blob, 0, blob.sizeBytes)
  }

  *#cut(blob: CachedBlob, start: number, end: number): Generator<Piece, void, undefined> {
    const { batchBytes } = this.#plan
    for (let offset = start; offset < end; offset += batchBytes)
      yield { blob, offset, length: Math.min(batchBytes, end - offset) }
  }
}

/** The inode at an absolute path; symlinks are not followed. */
function lookupPath(reader: InodeReader, path: string): number | undefined {
  let ino = reader.rootIno
  for (const name of path.split('/').filter(part => part !== '')) {
    const child =
      reader.attributes(ino).type === 'directory' ? reader.lookup(ino, Buffer.from(name)) : undefined
    if (child === undefined) return undefined
    ino = child
  }
  return ino
}
