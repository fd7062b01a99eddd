/** A blob made in memory, its layout, and a reader whose answers a test can hold back, alter or refuse. */
import { createHash } from 'node:crypto'
import type { BlobReader, ReadOptions } from '../../src/backend/reader.js'
import type { BlobLayout, ChunkRange, DecodedChunk, Extent } from '../../src/cache/layout.js'
import { fault } from '../../src/common/fault.js'

const BLOCK = 4096

export interface FakeBlobOptions {
  /** Uncompressed length of each chunk. */
  chunks: number[]
  /** Chunks an extent yields; 1 unless said. */
  batch?: number
  /** Unused bytes between the stored bytes of two extents. */
  storedGap?: number
  /** True: the stored bytes of an extent are its bytes inverted with one more byte before them. */
  coded?: boolean
  /** Chunks without a known digest. */
  unknown?: number[]
  seed?: number
}

/** Bytes that differ at every offset and repeat from run to run. */
export function noise(length: number, seed: number): Uint8Array {
  const bytes = Buffer.alloc(length)
  let state = (seed * 2654435761 + 12345) >>> 0
  for (let i = 0; i + 4 <= length; i += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes.writeUInt32LE(state, i)
  }
  return bytes
}

export class FakeBlob implements BlobLayout {
  readonly blobId: string
  readonly chunkCount: number
  readonly uncompressedSize: number
  readonly stored: Uint8Array
  /** The whole uncompressed address space. */
  readonly plain: Uint8Array
  readonly #ranges: ChunkRange[] = []
  readonly #extents: Extent[] = []
  readonly #digests: string[] = []
  readonly #options: FakeBlobOptions

  constructor(options: FakeBlobOptions) {
    this.#options = options
    const { chunks, batch = 1, storedGap = 0, coded = false, seed = 1 } = options
    this.blobId = createHash('sha256').update(`fake ${seed}`).digest('hex')
    this.chunkCount = chunks.length
    let offset = 0
    for (const length of chunks) {
      this.#ranges.push({ offset, length })
      offset = Math.ceil((offset + length) / BLOCK) * BLOCK
    }
    this.uncompressedSize = offset
    this.plain = new Uint8Array(offset)
    const stored: Uint8Array[] = []
    let storedOffset = 0
    for (let first = 0; first < chunks.length; first += batch) {
      const members = this.#ranges.slice(first, first + batch)
      const parts = members.map((range, i) => {
        const bytes = noise(range.length, seed * 1000003 + first + i)
        this.plain.set(bytes, range.offset)
        this.#digests.push(createHash('sha256').update(bytes).digest('hex'))
        return bytes
      })
      const bytes = coded
        ? Buffer.concat([Buffer.from([0x5a]), ...parts]).map((b, i) => (i === 0 ? b : b ^ 0xff))
        : Buffer.concat(parts)
      this.#extents.push({
        storedOffset,
        storedLength: bytes.length,
        firstChunk: first,
        chunkCount: members.length,
      })
      stored.push(bytes, new Uint8Array(storedGap))
      storedOffset += bytes.length + storedGap
    }
    this.stored = Buffer.concat(stored)
  }

  chunkRange(chunk: number): ChunkRange {
    return this.#ranges[chunk]!
  }

  chunksIn(offset: number, length: number): { first: number; end: number } {
    const end = offset + length
    const first = lowerBound(this.#ranges, r => r.offset + r.length > offset)
    return {
      first,
      end: Math.max(
        first,
        lowerBound(this.#ranges, r => r.offset >= end),
      ),
    }
  }

  extentOf(chunk: number): Extent {
    return this.#extents[Math.floor(chunk / (this.#options.batch ?? 1))]!
  }

  verifiable(chunk: number): boolean {
    return !this.#options.unknown?.includes(chunk)
  }

  async decode(extent: Extent, stored: Uint8Array): Promise<DecodedChunk[]> {
    let bytes = stored
    if (this.#options.coded) {
      if (stored[0] !== 0x5a) throw fault('CHUNK_DECODE', 'the stored bytes do not begin with the mark')
      bytes = stored.subarray(1).map(b => b ^ 0xff)
    }
    const out: DecodedChunk[] = []
    let at = 0
    for (let chunk = extent.firstChunk; chunk < extent.firstChunk + extent.chunkCount; chunk++) {
      const { offset, length } = this.chunkRange(chunk)
      out.push({ chunk, offset, bytes: bytes.subarray(at, at + length) })
      at += length
    }
    return out
  }

  verify({ chunk, bytes }: DecodedChunk): void {
    const expected = this.#digests[chunk]!
    const actual = createHash('sha256').update(bytes).digest('hex')
    if (actual !== expected || !this.verifiable(chunk)) {
      throw fault('CHUNK_DIGEST_MISMATCH', `chunk ${chunk} has a wrong digest`, {
        context: { expected, actual },
      })
    }
  }
}

function lowerBound<T>(items: T[], holds: (item: T) => boolean): number {
  let low = 0
  let high = items.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (holds(items[middle]!)) high = middle
    else low = middle + 1
  }
  return low
}

export interface FakeRead {
  offset: number
  length: number
  kind: ReadOptions['kind']
}

export class FakeReader implements BlobReader {
  readonly blobId: string
  /** Every read, in the order of their arrival. */
  readonly reads: FakeRead[] = []
  active = 0
  mostActive = 0
  /** Called before each answer; may wait, throw, or give other bytes. */
  answer: ((read: FakeRead, bytes: Uint8Array) => Uint8Array | Promise<Uint8Array>) | undefined
  /** Called before `answer`; may say how many bytes are there already, once or several times. */
  arrive: ((read: FakeRead, told: (done: number) => void) => Promise<void>) | undefined
  #onRead: (() => void)[] = []
  readonly stored: Uint8Array

  constructor(blob: { blobId: string; stored: Uint8Array }) {
    this.blobId = blob.blobId
    this.stored = blob.stored
  }

  async size(): Promise<number> {
    return this.stored.length
  }

  async read(offset: number, length: number, { kind, signal, onBytes }: ReadOptions): Promise<Uint8Array> {
    const read = { offset, length, kind }
    this.reads.push(read)
    this.mostActive = Math.max(this.mostActive, ++this.active)
    for (const wake of this.#onRead.splice(0)) wake()
    const gaveUp = createGate()
    signal?.addEventListener('abort', gaveUp.open, { once: true })
    try {
      const bytes = this.stored.subarray(offset, offset + length)
      await this.arrive?.(read, done => onBytes?.(bytes, done))
      const cancelled = gaveUp.opened.then(() => Promise.reject(fault('CANCELLED', 'aborted')))
      return await Promise.race([this.answer?.(read, bytes) ?? bytes, cancelled])
    } finally {
      signal?.removeEventListener('abort', gaveUp.open)
      this.active--
    }
  }

  /** Resolves when that many reads have arrived. */
  async arrived(count: number): Promise<void> {
    while (this.reads.length < count) await new Promise<void>(resolve => this.#onRead.push(resolve))
  }
}

/** A door that many can wait at. */
export function createGate(): { opened: Promise<void>; open: () => void } {
  let open = () => {}
  const opened = new Promise<void>(resolve => (open = resolve))
  return { opened, open }
}
