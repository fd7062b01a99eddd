import type { ImageBlob, ImageChunk } from './image-tree.js'

/** A set of chunks: a bit for each, since an image may have millions. */
export class ChunkSet {
  readonly #byBlob = new Map<ImageBlob, Uint8Array>()

  has({ blob, index }: ImageChunk): boolean {
    return ((this.#byBlob.get(blob)?.[index >>> 3] ?? 0) & (1 << (index & 7))) !== 0
  }

  /** False for a chunk that is in it. */
  add({ blob, index }: ImageChunk): boolean {
    const at = index >>> 3
    let bits = this.#byBlob.get(blob)
    if (bits === undefined || at >= bits.length) {
      const larger = new Uint8Array(Math.max((blob.chunkCount + 7) >>> 3, 2 * at + 1))
      larger.set(bits ?? [])
      this.#byBlob.set(blob, larger)
      bits = larger
    }
    const bit = 1 << (index & 7)
    const byte = bits[at] ?? 0
    bits[at] = byte | bit
    return (byte & bit) === 0
  }
}
