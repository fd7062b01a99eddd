import { type Hash, createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { digestOf } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { BLOCK_SIZE, MAX_CHUNKS_PER_BLOB, MAX_COMPRESSED_BLOB_SIZE, alignUp } from '../../erofs/format.js'
import type { ImageBlob, ImageChunk } from '../../erofs/image-tree.js'
import type { CompressPool, PackedChunks } from './compress-pool.js'
import type { ByteStream } from '../tar/layer-stream.js'

/** Small chunks travel to the compression threads together, up to about this many bytes. */
const BATCH_BYTES = 1024 * 1024

interface Batch {
  readonly packed: Promise<PackedChunks>
  readonly chunks: readonly ImageChunk[]
}

/**
 * Cuts files into chunks, stores each distinct one once and compressed, in the order of the archive, and hashes what it
 * writes. Memory is bounded by the batches on their way, and by about 200 bytes a chunk.
 */
export class ChunkWriter {
  /** All distinct chunks, by index. */
  readonly chunks: ImageChunk[] = []
  /** sha256 over everything written so far. */
  readonly hash: Hash = createHash('sha256')
  readonly #file: FileHandle
  readonly #blob: ImageBlob
  readonly #pool: CompressPool
  readonly #byDigest = new Map<string, ImageChunk>()
  readonly #spare: { input: ArrayBuffer; output: ArrayBuffer }[] = []
  readonly #inFlight: Batch[] = []
  #buffer: { input: ArrayBuffer; output: ArrayBuffer } | undefined
  #used = 0
  #batch: ImageChunk[] = []
  #position = 0

  constructor(file: FileHandle, blob: ImageBlob, pool: CompressPool) {
    this.#file = file
    this.#blob = blob
    this.#pool = pool
  }

  /** Bytes written so far. */
  get position(): number {
    return this.#position
  }

  /** The chunks of a file of exactly `sizeBytes`. @throws what the body throws, IMAGE_TOO_LARGE */
  async addFile(body: ByteStream, sizeBytes: number): Promise<ImageChunk[]> {
    const chunks: ImageChunk[] = []
    let left = sizeBytes
    let target: Uint8Array | undefined
    let filled = 0
    for await (const piece of body) {
      for (let at = 0; at < piece.length;) {
        target ??= await this.#reserve(Math.min(left, this.#blob.chunkSize))
        const part = piece.subarray(at, at + target.length - filled)
        target.set(part, filled)
        filled += part.length
        at += part.length
        left -= part.length
        if (filled < target.length) continue
        chunks.push(this.#seal(target))
        target = undefined
        filled = 0
      }
    }
    if (left !== 0) throw fault('TAR_INVALID', `the layer ends ${left} bytes before the end of a file`)
    return chunks
  }

  /** Writes out what is on its way; chunks then know their compressed place. */
  async flush(): Promise<void> {
    if (this.#batch.length > 0) this.#send()
    while (this.#inFlight.length > 0) await this.#writeOldest()
  }

  /** Appends bytes that are not a chunk. They enter the hash. */
  async append(bytes: Uint8Array): Promise<void> {
    this.hash.update(bytes)
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await this.#file.write(bytes, done, bytes.length - done, this.#position + done)
      done += bytesWritten
    }
    this.#position += bytes.length
  }

  /** Room for one chunk in the current batch. */
  async #reserve(sizeBytes: number): Promise<Uint8Array> {
    const capacity = Math.max(BATCH_BYTES, this.#blob.chunkSize)
    if (this.#used + sizeBytes > capacity) {
      this.#send()
      while (this.#inFlight.length > this.#pool.threads * 2) await this.#writeOldest()
    }
    this.#buffer ??= this.#spare.pop() ?? {
      input: new ArrayBuffer(capacity),
      output: new ArrayBuffer(capacity),
    }
    return new Uint8Array(this.#buffer.input, this.#used, sizeBytes)
  }

  /** Keeps a filled chunk in the batch, or forgets it where the blob has its like already. */
  #seal(bytes: Uint8Array): ImageChunk {
    const digest = Buffer.from(digestOf(this.#blob.digester, bytes)).toString('hex')
    const known = this.#byDigest.get(digest)
    if (known) return known
    if (this.chunks.length >= MAX_CHUNKS_PER_BLOB - 2)
      throw fault('IMAGE_TOO_LARGE', 'the layer has more than 16 million chunks: use a larger --chunk-size')
    const chunk: ImageChunk = {
      blob: this.#blob,
      index: this.chunks.length,
      digest,
      uncompressedOffset: this.#blob.uncompressedSize,
      uncompressedSize: bytes.length,
      compressedOffset: 0,
      compressedSize: 0,
    }
    this.#blob.uncompressedSize += alignUp(bytes.length, BLOCK_SIZE)
    this.#blob.chunkCount++
    this.#byDigest.set(digest, chunk)
    this.chunks.push(chunk)
    this.#batch.push(chunk)
    this.#used += bytes.length
    return chunk
  }

  #send(): void {
    if (!this.#buffer) return
    const { input, output } = this.#buffer
    const { compressor } = this.#blob
    const sizes = this.#batch.map(chunk => chunk.uncompressedSize)
    const packed =
      compressor === 'none'
        ? Promise.resolve({ input: output, output: input, storedSizes: sizes })
        : this.#pool.run({ input, output, sizes, compressor })
    // It is awaited in its turn; until then a failure is nobody's.
    packed.catch(() => undefined)
    this.#inFlight.push({ packed, chunks: this.#batch })
    this.#buffer = undefined
    this.#batch = []
    this.#used = 0
  }

  async #writeOldest(): Promise<void> {
    const batch = this.#inFlight.shift()
    if (!batch) return
    const { input, output, storedSizes } = await batch.packed
    let length = 0
    batch.chunks.forEach((chunk, i) => {
      chunk.compressedOffset = this.#position + length
      chunk.compressedSize = storedSizes[i] ?? 0
      length += chunk.compressedSize
    })
    if (this.#position + length >= MAX_COMPRESSED_BLOB_SIZE)
      throw fault('IMAGE_TOO_LARGE', 'the layer takes more than 1 TiB compressed')
    await this.append(new Uint8Array(output, 0, length))
    this.#spare.push({ input, output })
  }
}
