import { isCompressed } from './blob-writer.js'
import { CHUNK_FLAGS, CHUNK_OFF, CHUNK_RECORD_SIZE, DIGEST_SIZE } from './format.js'
import type { ImageBlob, ImageChunk } from './image-tree.js'
import { writeU64 } from './write-u64.js'
import type { ImageLayout } from './writer-layout.js'

/** Bits of a number that hold a part of a digest and the number of a chunk, to sort both as one. */
const KEY_BITS = 53

/** Each chunk that the tree references once, with its place in its first user, sorted by digest (rafs.md 1.11). */
export class ChunkTable {
  /** In order of first use. */
  readonly #chunks: ImageChunk[]
  /** In which file offset the first user has it. */
  readonly #fileOffsets: Float64Array

  constructor({ inodes }: ImageLayout) {
    const offsets = new Map<ImageChunk, number>()
    for (const { inode } of inodes) {
      if (inode.type !== 'regular') continue
      let fileOffset = 0
      for (const chunk of inode.chunks) {
        if (!offsets.has(chunk)) offsets.set(chunk, fileOffset)
        fileOffset += chunk.uncompressedSize
      }
    }
    this.#chunks = [...offsets.keys()]
    this.#fileOffsets = Float64Array.from(offsets.values())
  }

  get sizeBytes(): number {
    return this.#chunks.length * CHUNK_RECORD_SIZE
  }

  write(out: Buffer, offset: number, blobIndexes: ReadonlyMap<ImageBlob, number>): void {
    const digests = Buffer.alloc(this.#chunks.length * DIGEST_SIZE)
    this.#chunks.forEach((chunk, i) => digests.write(chunk.digest, i * DIGEST_SIZE, 'hex'))
    const indexOf = (i: number): number => blobIndexes.get(this.#chunks[i]?.blob as ImageBlob) ?? 0
    this.#order(digests, indexOf).forEach((i, record) => {
      const chunk = this.#chunks[i]
      if (chunk === undefined) return
      const at = offset + record * CHUNK_RECORD_SIZE
      digests.copy(out, at + CHUNK_OFF.digest, i * DIGEST_SIZE, (i + 1) * DIGEST_SIZE)
      writeRecord(out, at, chunk, indexOf(i), this.#fileOffsets[i] ?? 0)
    })
  }

  /**
   * The numbers of the chunks by digest, then blob. Sorted as plain numbers made of the start of the digest and the number
   * of the chunk; only those whose starts are equal are compared in full.
   */
  #order(digests: Buffer, indexOf: (i: number) => number): Uint32Array {
    const count = this.#chunks.length
    const numberBits = Math.ceil(Math.log2(count + 1))
    const unit = 2 ** numberBits
    const dropped = Math.max(0, 32 - (KEY_BITS - numberBits))
    const start = (i: number): number => digests.readUInt32BE(i * DIGEST_SIZE) >>> dropped
    const keys = Float64Array.from({ length: count }, (_, i) => start(i) * unit + i).sort()
    const order = Uint32Array.from(keys, key => key % unit)
    const compare = (a: number, b: number): number =>
      digests.compare(
        digests,
        b * DIGEST_SIZE,
        (b + 1) * DIGEST_SIZE,
        a * DIGEST_SIZE,
        (a + 1) * DIGEST_SIZE,
      ) || indexOf(a) - indexOf(b)
    for (let first = 0; first < count;) {
      let end = first + 1
      while (end < count && start(order[end] ?? 0) === start(order[first] ?? 0)) end++
      if (end > first + 1) order.subarray(first, end).sort(compare)
      first = end
    }
    return order
  }
}

function writeRecord(
  out: Buffer,
  at: number,
  chunk: ImageChunk,
  blobIndex: number,
  fileOffset: number,
): void {
  out.writeUInt32LE(blobIndex, at + CHUNK_OFF.blobIndex)
  out.writeUInt32LE(flagsOf(chunk), at + CHUNK_OFF.flags)
  // Where a member of a batch is stored only the blob's own metadata says (rafs.md 1.11).
  if (chunk.batch === undefined) {
    out.writeUInt32LE(chunk.compressedSize, at + CHUNK_OFF.compressedSize)
    writeU64(out, at + CHUNK_OFF.compressedOffset, chunk.compressedOffset)
  }
  out.writeUInt32LE(chunk.uncompressedSize, at + CHUNK_OFF.uncompressedSize)
  writeU64(out, at + CHUNK_OFF.uncompressedOffset, chunk.uncompressedOffset)
  writeU64(out, at + CHUNK_OFF.fileOffset, fileOffset)
  out.writeUInt32LE(chunk.index, at + CHUNK_OFF.index)
  out.writeUInt32LE(chunk.crc32 ?? 0, at + CHUNK_OFF.crc32)
}

function flagsOf(chunk: ImageChunk): number {
  return (
    (isCompressed(chunk) ? CHUNK_FLAGS.compressed : 0) |
    (chunk.blob.cipher && chunk.batch === undefined ? CHUNK_FLAGS.encrypted : 0) |
    (chunk.crc32 === undefined ? 0 : CHUNK_FLAGS.hasCrc32)
  )
}
