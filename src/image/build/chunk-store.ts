import { DIGEST_SIZE } from '../../erofs/format.js'
import type { ChunkPlace, ImageBlob, ImageChunk } from '../../erofs/image-tree.js'

/** A power of two. */
const PAGE_CHUNKS = 1024
const FIRST_SLOTS = 1024

/** What is known of some chunks in a row, in columns outside of V8's heap: there may be millions. */
class ChunkPage {
  readonly digests = new Uint8Array(PAGE_CHUNKS * DIGEST_SIZE)
  readonly uncompressedOffsets = new Float64Array(PAGE_CHUNKS)
  readonly uncompressedSizes = new Uint32Array(PAGE_CHUNKS)
  readonly compressedOffsets = new Float64Array(PAGE_CHUNKS)
  readonly compressedSizes = new Uint32Array(PAGE_CHUNKS)
  /** Of members of batches alone. */
  readonly places: (ChunkPlace | undefined)[] = []
  readonly blob: ImageBlob
  /** Index of the first of them. */
  readonly first: number

  constructor(blob: ImageBlob, first: number) {
    this.blob = blob
    this.first = first
  }
}

/** A chunk of a blob that is being written: little more than where it stands in its page. */
export class StoredChunk implements ImageChunk {
  readonly #page: ChunkPage
  readonly #at: number

  constructor(page: ChunkPage, at: number) {
    this.#page = page
    this.#at = at
  }

  get blob(): ImageBlob {
    return this.#page.blob
  }

  get index(): number {
    return this.#page.first + this.#at
  }

  get digest(): string {
    const { buffer } = this.#page.digests
    return Buffer.from(buffer, this.#at * DIGEST_SIZE, DIGEST_SIZE).toString('hex')
  }

  /** The first four bytes of the digest. */
  get digestStart(): number {
    return startOf(this.#page.digests, this.#at * DIGEST_SIZE)
  }

  hasDigest(digest: Uint8Array): boolean {
    const { digests } = this.#page
    const at = this.#at * DIGEST_SIZE
    for (let i = 0; i < DIGEST_SIZE; i++) if (digests[at + i] !== digest[i]) return false
    return true
  }

  get uncompressedOffset(): number {
    return this.#page.uncompressedOffsets[this.#at] ?? 0
  }

  get uncompressedSize(): number {
    return this.#page.uncompressedSizes[this.#at] ?? 0
  }

  get compressedOffset(): number {
    return this.#page.compressedOffsets[this.#at] ?? 0
  }

  set compressedOffset(offset: number) {
    this.#page.compressedOffsets[this.#at] = offset
  }

  get compressedSize(): number {
    return this.#page.compressedSizes[this.#at] ?? 0
  }

  set compressedSize(sizeBytes: number) {
    this.#page.compressedSizes[this.#at] = sizeBytes
  }

  get batch(): ChunkPlace | undefined {
    return this.#page.places[this.#at]
  }

  set batch(place: ChunkPlace) {
    this.#page.places[this.#at] = place
  }
}

/** The distinct chunks of a blob that is being written, found by their digests: about 120 bytes each. */
export class ChunkStore {
  /** By index. */
  readonly chunks: StoredChunk[] = []
  readonly #blob: ImageBlob
  #page: ChunkPage
  /** An open hash table of indexes plus one, at most half full. */
  #slots = new Uint32Array(FIRST_SLOTS)

  constructor(blob: ImageBlob) {
    this.#blob = blob
    this.#page = new ChunkPage(blob, 0)
  }

  find(digest: Uint8Array): StoredChunk | undefined {
    for (let slot = this.#firstSlot(startOf(digest, 0)); ; slot = this.#nextSlot(slot)) {
      const chunk = this.chunks[(this.#slots[slot] ?? 0) - 1]
      if (chunk === undefined || chunk.hasDigest(digest)) return chunk
    }
  }

  /** Adds a chunk that the store has not. */
  add(digest: Uint8Array, uncompressedOffset: number, uncompressedSize: number): StoredChunk {
    const index = this.chunks.length
    const at = index % PAGE_CHUNKS
    if (at === 0 && index > 0) this.#page = new ChunkPage(this.#blob, index)
    const page = this.#page
    page.digests.set(digest, at * DIGEST_SIZE)
    page.uncompressedOffsets[at] = uncompressedOffset
    page.uncompressedSizes[at] = uncompressedSize
    const chunk = new StoredChunk(page, at)
    this.chunks.push(chunk)
    if (this.chunks.length * 2 > this.#slots.length) this.#grow()
    else this.#enter(chunk)
    return chunk
  }

  #enter(chunk: StoredChunk): void {
    let slot = this.#firstSlot(chunk.digestStart)
    while (this.#slots[slot] !== 0) slot = this.#nextSlot(slot)
    this.#slots[slot] = chunk.index + 1
  }

  #grow(): void {
    this.#slots = new Uint32Array(this.#slots.length * 2)
    for (const chunk of this.chunks) this.#enter(chunk)
  }

  #firstSlot(digestStart: number): number {
    return digestStart & (this.#slots.length - 1)
  }

  #nextSlot(slot: number): number {
    return (slot + 1) & (this.#slots.length - 1)
  }
}

/** Any bits of a digest are as good as a hash of it. */
function startOf(digests: Uint8Array, at: number): number {
  const byte = (i: number): number => (digests[at + i] ?? 0) << (8 * i)
  return byte(0) | byte(1) | byte(2) | byte(3)
}
