import { digestOf } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { limitBufferGarbage } from '../../common/garbage.js'
import { BLOCK_SIZE, MAX_CHUNKS_PER_BLOB, MAX_COMPRESSED_BLOB_SIZE, alignUp } from '../../erofs/format.js'
import type { ChunkBatch, ImageBlob, ImageChunk } from '../../erofs/image-tree.js'
import type { ByteStream } from '../tar/layer-stream.js'
import { isHole } from '../tar/zeros.js'
import type { BlobStream } from './blob-stream.js'
import { ChunkStore } from './chunk-store.js'
import type { CompressPool, PackedUnits } from './compress-pool.js'

/** Chunks travel to the compression threads together, up to about this many bytes, */
const PARCEL_BYTES = 1024 * 1024
/** and this many units: an encrypted unit takes 18 bytes, however small it is. */
const PARCEL_UNITS = 4096
/** What AES-XTS takes at least; a shorter unit grows. */
const XTS_BLOCK = 16

export interface ChunkOptions {
  /** Uncompressed places are multiples of 4096. */
  readonly aligned: boolean
  /** Small files are compressed together up to less than this many bytes; 0 to compress each by itself. */
  readonly batchSize: number
  /** Chunks that other blobs of the image hold already. */
  readonly known?: ChunkDictionary
}

/** Chunks of other blobs. */
export interface ChunkDictionary {
  /** A chunk with this digest (hex) and this many bytes uncompressed. */
  find(digest: string, uncompressedSize: number): ImageChunk | undefined
}

/** What is compressed as one: a chunk, or a batch of them. */
interface Unit {
  readonly sizeBytes: number
  readonly chunks: readonly ImageChunk[]
  readonly batch?: ChunkBatch
}

interface Parcel {
  readonly packed: Promise<PackedUnits>
  readonly units: readonly Unit[]
}

/**
 * Cuts files into chunks and stores each distinct one once, compressed and encrypted as the blob says, in the order they
 * come. Memory is bounded by the parcels on their way, and by about 120 bytes a chunk.
 */
export class ChunkWriter {
  readonly batches: ChunkBatch[] = []
  readonly #stream: BlobStream
  readonly #blob: ImageBlob
  readonly #options: ChunkOptions
  readonly #pool: CompressPool
  readonly #capacity: number
  readonly #store: ChunkStore
  /** Chunks of zeros, by size. */
  readonly #holes = new Map<number, ImageChunk>()
  readonly #spare: { input: ArrayBuffer; output: ArrayBuffer }[] = []
  readonly #inFlight: Parcel[] = []
  #buffer: { input: ArrayBuffer; output: ArrayBuffer } | undefined
  #used = 0
  #units: Unit[] = []
  /** Small chunks at the end of the buffer that are still to become a batch. */
  #open: ImageChunk[] = []
  #openBytes = 0

  constructor(stream: BlobStream, blob: ImageBlob, options: ChunkOptions, pool: CompressPool) {
    this.#stream = stream
    this.#blob = blob
    this.#options = options
    this.#pool = pool
    this.#capacity = Math.max(PARCEL_BYTES, blob.chunkSize)
    this.#store = new ChunkStore(blob)
  }

  /** All distinct chunks, by index. */
  get chunks(): readonly ImageChunk[] {
    return this.#store.chunks
  }

  /** The chunks of a file of exactly `sizeBytes`. @throws what the body throws, TAR_INVALID, IMAGE_TOO_LARGE */
  async addFile(body: ByteStream, sizeBytes: number): Promise<ImageChunk[]> {
    const small = sizeBytes <= this.#blob.chunkSize && sizeBytes < this.#options.batchSize / 2
    let chunks: ImageChunk[] = []
    let left = sizeBytes
    let target: Uint8Array | undefined
    let filled = 0
    for await (const piece of body) {
      for (let at = 0; at < piece.length;) {
        const next = Math.min(left, this.#blob.chunkSize)
        if (target === undefined && isHole(piece) && piece.length - at >= next) {
          chunks.push(await this.#hole(next, small))
          at += next
          left -= next
          continue
        }
        target ??= await this.#reserve(next, small)
        const part = piece.subarray(at, at + target.length - filled)
        target.set(part, filled)
        filled += part.length
        at += part.length
        left -= part.length
        if (filled < target.length) continue
        const chunk = this.#seal(target, small)
        // Most files have one; a list that grows has room for sixteen more.
        if (chunks.length === 0) chunks = [chunk]
        else chunks.push(chunk)
        target = undefined
        filled = 0
      }
    }
    if (left !== 0) throw fault('TAR_INVALID', `the layer ends ${left} bytes before the end of a file`)
    return chunks
  }

  /** A chunk of zeros, which are looked at once: holes may be thousands of times bigger than their archive. */
  async #hole(sizeBytes: number, small: boolean): Promise<ImageChunk> {
    const known = this.#holes.get(sizeBytes)
    if (known) return known
    const target = await this.#reserve(sizeBytes, small)
    const chunk = this.#seal(target.fill(0), small)
    this.#holes.set(sizeBytes, chunk)
    return chunk
  }

  /** Writes out what is on its way; chunks then know their compressed place. Keeps no memory but theirs. */
  async flush(): Promise<void> {
    this.#send()
    while (this.#inFlight.length > 0) await this.#writeOldest()
    this.#spare.length = 0
    limitBufferGarbage(this.#capacity)
  }

  /** Room for one chunk in the current parcel. A new batch finds room for all of it. */
  async #reserve(sizeBytes: number, small: boolean): Promise<Uint8Array> {
    const need = small && this.#open.length === 0 ? this.#options.batchSize : sizeBytes
    if (this.#used + need > this.#capacity || this.#units.length >= PARCEL_UNITS) {
      this.#send()
      while (this.#inFlight.length > this.#pool.threads * 2) await this.#writeOldest()
    }
    this.#buffer ??= this.#spare.pop() ?? {
      input: new ArrayBuffer(this.#capacity),
      output: new ArrayBuffer(this.#capacity + PARCEL_UNITS * (XTS_BLOCK + 2)),
    }
    return new Uint8Array(this.#buffer.input, this.#used, sizeBytes)
  }

  /** Keeps a filled chunk in the parcel, or forgets it where the image has its like already. */
  #seal(bytes: Uint8Array, small: boolean): ImageChunk {
    const digest = digestOf(this.#blob.digester, bytes)
    const known = this.#store.find(digest) ?? this.#options.known?.find(hex(digest), bytes.length)
    if (known?.uncompressedSize === bytes.length) return known
    const chunk = this.#newChunk(digest, bytes.length)
    if (!small) {
      this.#closeBatch()
      this.#units.push({ sizeBytes: bytes.length, chunks: [chunk] })
    } else {
      if (this.#openBytes + bytes.length >= this.#options.batchSize) this.#closeBatch()
      this.#open.push(chunk)
      this.#openBytes += bytes.length
    }
    this.#used += bytes.length
    return chunk
  }

  #newChunk(digest: Uint8Array, sizeBytes: number): ImageChunk {
    if (this.chunks.length >= MAX_CHUNKS_PER_BLOB - 2)
      throw fault('IMAGE_TOO_LARGE', 'the layer has more than 16 million chunks: use a larger --chunk-size')
    const chunk = this.#store.add(digest, this.#blob.uncompressedSize, sizeBytes)
    this.#blob.uncompressedSize += this.#options.aligned ? alignUp(sizeBytes, BLOCK_SIZE) : sizeBytes
    this.#blob.chunkCount++
    return chunk
  }

  /** A batch of one would only cost a context; and a short encrypted one could not be told from a compressed one. */
  #closeBatch(): void {
    const chunks = this.#open
    const sizeBytes = this.#openBytes
    if (chunks.length === 0) return
    this.#open = []
    this.#openBytes = 0
    if (chunks.length === 1 || (this.#blob.cipher && sizeBytes < XTS_BLOCK)) {
      for (const chunk of chunks) this.#units.push({ sizeBytes: chunk.uncompressedSize, chunks: [chunk] })
      return
    }
    const batch: ChunkBatch = {
      index: this.batches.length,
      compressedSize: 0,
      uncompressedSize: sizeBytes,
    }
    let offset = 0
    for (const chunk of chunks) {
      chunk.batch = { batch, offset }
      offset += chunk.uncompressedSize
    }
    this.batches.push(batch)
    this.#units.push({ sizeBytes, chunks, batch })
  }

  #send(): void {
    this.#closeBatch()
    if (!this.#buffer || this.#units.length === 0) return
    const { input, output } = this.#buffer
    const { compressor, cipher } = this.#blob
    const sizes = this.#units.map(unit => unit.sizeBytes)
    const packed =
      compressor === 'none' && !cipher
        ? Promise.resolve({ input: output, output: input, storedSizes: sizes })
        : this.#pool.run({ input, output, sizes, compressor, ...(cipher && { cipher }) })
    // It is awaited in its turn; until then a failure is nobody's.
    packed.catch(() => undefined)
    this.#inFlight.push({ packed, units: this.#units })
    this.#buffer = undefined
    this.#units = []
    this.#used = 0
    limitBufferGarbage()
  }

  async #writeOldest(): Promise<void> {
    const parcel = this.#inFlight.shift()
    if (!parcel) return
    const { input, output, storedSizes } = await parcel.packed
    let length = 0
    parcel.units.forEach(({ chunks, batch }, i) => {
      const stored = storedSizes[i] ?? 0
      for (const chunk of chunks) chunk.compressedOffset = this.#stream.position + length
      if (batch) batch.compressedSize = stored
      else for (const chunk of chunks) chunk.compressedSize = stored
      length += stored
    })
    if (this.#stream.position + length >= MAX_COMPRESSED_BLOB_SIZE)
      throw fault('IMAGE_TOO_LARGE', 'the layer takes more than 1 TiB compressed')
    await this.#stream.append(new Uint8Array(output, 0, length))
    this.#spare.push({ input, output })
  }
}

function hex(digest: Uint8Array): string {
  return Buffer.from(digest).toString('hex')
}
