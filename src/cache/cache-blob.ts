import { asFault, fault, type Fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { ReadOptions } from '../backend/reader.js'
import type { CachedBlob, EnsureOptions, ReadyBlocks } from './cached-blob.js'
import { type CacheFile, ioFault } from './cache-file.js'
import { FailureWindow } from './failure-window.js'
import type { FetchPlanner, FetchTarget } from './fetch-planner.js'
import type { BlobLayout, DecodedChunk, Extent } from './layout.js'
import { LayoutSet, type Origin } from './layout-set.js'
import { neighbourhoodOf } from './neighbourhood.js'
import { Readahead, type ReadaheadPlan } from './readahead.js'
import {
  clearRangeReady,
  createReadyBlocks,
  markRangeReady,
  rangeReady,
  READY_BLOCK,
} from './ready-blocks.js'
import { ReadyMaps } from './ready-maps.js'
import type { BlobStats } from './stats.js'
import { WriteBack, type WriteBackOptions } from './write-back.js'

/** Key of the metadata in the failure window; chunks are not negative. */
const METADATA = -1
/** Address space that a prefetch queues at once. */
const PREFETCH_STEP = 16 * 1024 * 1024
/** Small neighbours are written with one call up to this many bytes. */
const MAX_WRITE = 256 * 1024

export interface CacheBlobOptions extends WriteBackOptions {
  blobId: string
  sizeBytes: number
  chunkCount: number | undefined
  validate: boolean
  readaheadBytes: number
  failureWindowMs: number
  bootId: string
  now: () => number
}

/** One blob of a chunk cache: its file, what of it is ready, and how the rest gets there. */
export class CacheBlob implements CachedBlob, FetchTarget {
  readonly blobId: string
  readonly sizeBytes: number
  readonly readyBlocks: ReadyBlocks
  readonly stats: BlobStats
  readonly #options: CacheBlobOptions
  readonly #file: CacheFile
  readonly #planner: FetchPlanner
  readonly #logger: Logger
  readonly #layouts: LayoutSet
  readonly #failures: FailureWindow
  readonly #onDurable: (() => void)[] = []
  /** Chunks read ahead that are to be asked for by name, so that the reader's progress is seen; see Readahead. */
  readonly #markers = new Set<number>()
  /** Markers that are written and not yet asked for. */
  readonly #withheld = new Set<number>()
  #validate: boolean
  #maps: ReadyMaps | undefined
  #writeBack: WriteBack | undefined
  #readahead: Readahead | undefined
  /** What the maps say was brought into the ready blocks, once. */
  #adopted = false
  #closed = false

  constructor(
    options: CacheBlobOptions,
    parts: { file: CacheFile; planner: FetchPlanner; logger: Logger; stats: BlobStats },
  ) {
    this.#options = options
    this.blobId = options.blobId
    this.sizeBytes = options.sizeBytes
    this.#validate = options.validate
    this.#file = parts.file
    this.#planner = parts.planner
    this.#logger = parts.logger.child({ blob: options.blobId })
    this.stats = parts.stats
    this.readyBlocks = createReadyBlocks(options.sizeBytes)
    this.#layouts = new LayoutSet(options.sizeBytes, options.chunkCount)
    this.#failures = new FailureWindow(options.failureWindowMs, options.now)
    if (options.chunkCount !== undefined) this.#openMaps(options.chunkCount)
  }

  get path(): string {
    return this.#file.path
  }
  get fillFd(): number {
    return this.#file.fd
  }
  get dev(): number {
    return this.#file.dev
  }
  get ino(): number {
    return this.#file.ino
  }
  get complete(): boolean {
    return this.#maps?.complete ?? false
  }
  get durable(): boolean {
    return this.#maps?.durable ?? false
  }
  /** Where the chunks are; known from the first miss on. */
  get layout(): BlobLayout {
    const layout = this.#layouts.geometry
    if (!layout) throw fault('INTERNAL', `the chunks of blob ${this.blobId} are not known yet`)
    return layout
  }

  /** Adds what one more image brings. @throws BLOB_META_INVALID */
  async addOrigin(origin: Origin, validate: boolean): Promise<void> {
    await this.#layouts.add(origin)
    this.#validate ||= validate
    this.#adoptLayouts()
  }

  removeOrigin(origin: Pick<Origin, 'reader'>): void {
    this.#layouts.remove(origin.reader)
    this.#adoptLayouts()
  }

  isReady(offset: number, length: number): boolean {
    return rangeReady(this.readyBlocks, this.sizeBytes, offset, length)
  }

  async ensure(offset: number, length: number, options: EnsureOptions): Promise<void> {
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) {
      throw fault('CACHE_RANGE', `the range ${offset}+${length} of blob ${this.blobId} is not one`)
    }
    const end = Math.min(offset + length, this.sizeBytes)
    if (end <= offset) return
    const { kind, signal } = options
    if (this.isReady(offset, end - offset)) {
      if (kind !== 'demand') return
      this.stats.count('hits')
      if (!this.complete) this.#runAhead(offset, end)
      return
    }
    if (this.#closed || signal?.aborted) throw cancelled(this.#closed ? 'the blob was closed' : 'given up')
    if (kind !== 'demand') return this.#bringInSteps(offset, end, options)
    this.stats.count('waits')
    const started = this.#options.now()
    try {
      await this.#bring(offset, end, options)
    } finally {
      this.stats.count('stallMs', Math.max(0, this.#options.now() - started))
    }
  }

  onDurable(callback: () => void): void {
    if (this.durable) callback()
    else this.#onDurable.push(callback)
  }

  /** Ends what is under way, flushes, and closes the files. */
  async close(): Promise<void> {
    this.#closed = true
    await this.#planner.drop(this)
    await this.#writeBack?.close()
    this.#maps?.close()
    this.#file.close()
  }

  // What the planner calls.

  async fetch(offset: number, length: number, options: ReadOptions): Promise<Uint8Array> {
    this.stats.countRequest(options.kind)
    try {
      const stored = await this.#layouts.fetch(offset, length, options)
      this.stats.count('fetchedBytes', length)
      return stored
    } catch (err) {
      this.stats.count('failedRequests')
      throw asFault(err)
    }
  }

  async store(extent: Extent, stored: Uint8Array): Promise<void> {
    const maps = this.#needMaps()
    const good: DecodedChunk[] = []
    let wrong: unknown
    for (const decoded of await this.#decode(extent, stored)) {
      if (maps.has(decoded.chunk) || !this.#verifiable(decoded.chunk)) continue
      try {
        if (this.#validate) this.#layouts.verify(decoded)
        good.push(decoded)
      } catch (err) {
        wrong ??= err
        this.#logCorrupt(decoded.chunk, err)
      }
    }
    await Promise.all(neighbours(good).map(run => this.#write(run)))
    if (wrong) throw asFault(wrong)
  }

  failed(extent: Extent, failure: Fault): void {
    this.#failures.add(extent.firstChunk, failure)
  }

  // Bringing chunks.

  async #bringInSteps(offset: number, end: number, options: EnsureOptions): Promise<void> {
    for (let at = offset; at < end; at += PREFETCH_STEP) {
      await this.#bring(at, Math.min(at + PREFETCH_STEP, end), options)
    }
  }

  async #bring(offset: number, end: number, { kind, signal }: EnsureOptions): Promise<void> {
    if (!this.#layouts.allLoaded) await abortable(this.#loadLayouts(), signal)
    if (this.#closed) throw cancelled('the blob was closed')
    const chunks = this.layout.chunksIn(offset, end - offset)
    if (kind === 'demand') this.#checkVerifiable(chunks.first, chunks.end)
    const missing = this.#missing(chunks.first, chunks.end)
    const extents = this.#extentsOf(missing)
    for (const { firstChunk } of extents) {
      const recent = this.#failures.get(firstChunk)
      if (recent) throw recent
    }
    const tasks = extents.map(extent => this.#planner.request(this, extent, kind))
    if (kind === 'demand') {
      this.#requestNeighbours(extents)
      this.#runAhead(offset, end)
    }
    const waiting = tasks.map(task => this.#planner.wait(task, abortable(task.done, signal)))
    const failed = (await Promise.allSettled(waiting)).find(result => result.status === 'rejected')
    // A batch fails as a whole for one wrong chunk, which need not be one of ours; and what is no longer verifiable,
    // because its image was closed meanwhile, is not written though its batch may be.
    const lost = missing.find(chunk => !this.#needMaps().has(chunk))
    if (lost === undefined) return
    throw failed ? asFault(failed.reason) : cancelled(`the image that chunk ${lost} belongs to was closed`)
  }

  #checkVerifiable(first: number, end: number): void {
    const maps = this.#needMaps()
    for (let chunk = first; chunk < end; chunk++) {
      if (maps.has(chunk) || this.#verifiable(chunk)) continue
      throw fault('CHUNK_DIGEST_MISMATCH', `no image mounted here knows the digest of chunk ${chunk}`, {
        context: { blob: this.blobId, chunk },
      })
    }
  }

  /** Those of the chunks [first, end) that are yet to be written. Withheld ones are handed out. */
  #missing(first: number, end: number): number[] {
    const maps = this.#needMaps()
    const missing: number[] = []
    for (let chunk = first; chunk < end; chunk++) {
      if (maps.has(chunk)) this.#handOut(chunk)
      else if (this.#verifiable(chunk)) missing.push(chunk)
    }
    return missing
  }

  /** The extents that yield these chunks, which ascend. */
  #extentsOf(chunks: readonly number[]): Extent[] {
    const extents: Extent[] = []
    for (const chunk of chunks) {
      const extent = this.layout.extentOf(chunk)
      if (extents.at(-1)?.firstChunk !== extent.firstChunk) extents.push(extent)
    }
    return extents
  }

  /** Tells the detector of a demand and queues what it wants read ahead. */
  #runAhead(offset: number, end: number): void {
    if (this.#options.readaheadBytes === 0 || this.#closed || !this.#layouts.allLoaded) return
    this.#readahead ??= new Readahead(this.layout, this.#options.readaheadBytes)
    const touched = this.layout.chunksIn(offset, end - offset)
    if (touched.first >= touched.end) return
    const plan = this.#readahead.observe(offset, touched.first, touched.end)
    if (plan) this.#requestAhead(plan)
  }

  /** What is stored close to a small extent comes in the same request, which would cost as much for a few bytes. */
  #requestNeighbours(extents: readonly Extent[]): void {
    if (this.#options.readaheadBytes === 0) return
    const maps = this.#needMaps()
    for (const extent of extents) {
      const near = neighbourhoodOf(this.layout, extent)
      this.#requestGuess(near.filter(chunk => !maps.has(chunk) && this.#verifiable(chunk)))
    }
  }

  #requestAhead(plan: ReadaheadPlan): void {
    const missing = this.#missing(plan.first, plan.end)
    this.#requestGuess(missing)
    const marker = missing.find(chunk => chunk >= plan.marker)
    if (marker !== undefined) this.#markers.add(marker)
  }

  /** Asks for chunks that nobody waits for. */
  #requestGuess(missing: readonly number[]): void {
    for (const extent of this.#extentsOf(missing)) {
      if (!this.#failures.get(extent.firstChunk)) this.#planner.request(this, extent, 'readahead')
    }
  }

  async #loadLayouts(): Promise<void> {
    const recent = this.#failures.get(METADATA)
    if (recent) throw recent
    try {
      await this.#layouts.load()
    } catch (err) {
      const failure = asFault(err)
      if (failure.code !== 'CANCELLED') this.#failures.add(METADATA, failure)
      throw failure
    }
    this.#adoptLayouts()
  }

  async #decode(extent: Extent, stored: Uint8Array): Promise<DecodedChunk[]> {
    try {
      return await this.layout.decode(extent, stored)
    } catch (err) {
      this.#logCorrupt(extent.firstChunk, err)
      throw err
    }
  }

  async #write(run: readonly DecodedChunk[]): Promise<void> {
    const first = run[0]
    if (!first) return
    try {
      await this.#file.write(first.offset, joined(run))
      for (const decoded of run) this.#publish(decoded)
    } catch (err) {
      this.stats.count('failedWrites', run.length)
      const failure = ioFault(err, `cannot note what is written in ${this.path}`)
      this.#logger.error({ err: failure, chunk: first.chunk }, failure.message)
      throw failure
    }
  }

  /** The bytes are in the file: sets the bit in the file, then in memory. */
  #publish({ chunk, offset, bytes }: DecodedChunk): void {
    const maps = this.#needMaps()
    maps.setWritten(chunk)
    this.stats.count('chunksReady')
    if (this.#markers.delete(chunk)) this.#withheld.add(chunk)
    else markRangeReady(this.readyBlocks, offset, bytes.length)
    this.#writeBack?.add(chunk, bytes.length)
    if (this.complete) this.#completed()
  }

  #completed(): void {
    for (const chunk of this.#withheld) this.#handOut(chunk)
    void this.#writeBack?.flush()
  }

  #handOut(chunk: number): void {
    if (!this.#withheld.delete(chunk)) return
    const { offset, length } = this.layout.chunkRange(chunk)
    markRangeReady(this.readyBlocks, offset, length)
  }

  // What is ready.

  #openMaps(chunkCount: number): void {
    let maps: ReadyMaps
    try {
      maps = ReadyMaps.open(this.path, chunkCount, this.#options.bootId, this.#logger)
    } catch (err) {
      throw ioFault(err, `cannot open the ready map of ${this.path}`)
    }
    this.#maps = maps
    this.#writeBack = new WriteBack(
      this.#file,
      maps,
      this.#options,
      this.#logger,
      () => this.#flushed(),
      chunks => this.#lost(chunks),
    )
    if (maps.complete) markRangeReady(this.readyBlocks, 0, this.sizeBytes)
  }

  /** Brings what is ready in line with the layouts that are loaded now. */
  #adoptLayouts(): void {
    const layout = this.#layouts.geometry
    if (!layout || !this.#layouts.allLoaded) {
      this.#maps?.expectAll()
      return
    }
    if (!this.#maps) this.#openMaps(layout.chunkCount)
    const maps = this.#needMaps()
    maps.expect(chunk => this.#verifiable(chunk))
    markWritten(
      this.readyBlocks,
      this.sizeBytes,
      layout,
      chunk => maps.has(chunk) && !this.#withheld.has(chunk),
    )
    if (!this.#adopted) {
      this.#adopted = true
      for (const chunk of maps.notDurable()) this.#writeBack?.add(chunk, layout.chunkRange(chunk).length)
    }
    if (this.complete) this.#completed()
    this.#flushed()
  }

  #verifiable(chunk: number): boolean {
    return this.#layouts.verifiable(chunk)
  }

  #needMaps(): ReadyMaps {
    if (!this.#maps) throw fault('INTERNAL', `the ready map of blob ${this.blobId} is not open`)
    return this.#maps
  }

  #flushed(): void {
    if (this.durable) for (const callback of this.#onDurable.splice(0)) callback()
  }

  /** The disk could not take these: whoever reads them asks again. */
  #lost(chunks: readonly number[]): void {
    const layout = this.#layouts.geometry
    for (const chunk of chunks) {
      this.#withheld.delete(chunk)
      if (!layout) continue
      const { offset, length } = layout.chunkRange(chunk)
      clearRangeReady(this.readyBlocks, offset, length)
    }
    try {
      this.#needMaps().distrust(chunks)
    } catch (err) {
      const failure = ioFault(err, `cannot note what is lost of ${this.path}`)
      this.#logger.error({ err: failure }, failure.message)
    }
  }

  #logCorrupt(chunk: number, err: unknown): void {
    this.stats.count('corruptChunks')
    const failure = asFault(err)
    this.#logger.error({ ...failure.context, chunk, code: failure.code }, failure.message)
  }
}

/**
 * Marks every written chunk, and the padding between chunks, in as few steps as there are runs. Where chunks are that
 * nobody knows, nothing is marked, written or not.
 */
function markWritten(
  blocks: ReadyBlocks,
  sizeBytes: number,
  layout: BlobLayout,
  written: (chunk: number) => boolean,
): void {
  /** Where the run begins; undefined among chunks that nobody knows. */
  let from: number | undefined = 0
  for (let chunk = 0; chunk < layout.chunkCount; chunk++) {
    const { offset, length } = layout.chunkRange(chunk)
    const start: number = from ?? offset
    if (length > 0 && written(chunk)) {
      from = start
      continue
    }
    if (offset > start) markRangeReady(blocks, start, offset - start)
    from = length > 0 ? Math.ceil((offset + length) / READY_BLOCK) * READY_BLOCK : undefined
  }
  if (from !== undefined && sizeBytes > from) markRangeReady(blocks, from, sizeBytes - from)
}

/** Groups chunks that follow each other with nothing but padding between them, up to MAX_WRITE a group. */
function neighbours(chunks: readonly DecodedChunk[]): DecodedChunk[][] {
  const runs: DecodedChunk[][] = []
  for (const decoded of chunks) {
    const run = runs.at(-1)
    const last = run?.at(-1)
    const first = run?.[0]
    const follows =
      last?.chunk === decoded.chunk - 1 &&
      decoded.offset - (last.offset + last.bytes.length) < READY_BLOCK &&
      first !== undefined &&
      decoded.offset + decoded.bytes.length - first.offset <= MAX_WRITE
    if (run && follows) run.push(decoded)
    else runs.push([decoded])
  }
  return runs
}

/** The bytes of a run with zeros for its padding; a single chunk is not copied. */
function joined(run: readonly DecodedChunk[]): Uint8Array {
  const first = run[0]
  const last = run.at(-1)
  if (!first || !last || first === last) return first?.bytes ?? new Uint8Array(0)
  const bytes = new Uint8Array(last.offset + last.bytes.length - first.offset)
  for (const decoded of run) bytes.set(decoded.bytes, decoded.offset - first.offset)
  return bytes
}

function cancelled(why: string): Fault {
  return fault('CANCELLED', why)
}

/** The promise, or CANCELLED as soon as the signal says so. */
function abortable(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return promise
  return new Promise((resolve, reject) => {
    const give = () => reject(cancelled('given up'))
    if (signal.aborted) give()
    signal.addEventListener('abort', give, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', give))
  })
}
