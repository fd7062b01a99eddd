import { isCompressed } from './blob-writer.js'
import { ChunkSet } from './chunk-set.js'
import { CHUNK_FLAGS, CHUNK_OFF, CHUNK_RECORD_SIZE, DIGEST_SIZE } from './format.js'
import type { ImageBlob, ImageChunk } from './image-tree.js'
import { writeU64 } from './write-u64.js'
import type { ImageLayout } from './writer-layout.js'

/** Bits of a number that hold a part of a digest and the number of a chunk, to sort both as one. */
const KEY_BITS = 53

/** Each chunk that the tree references once, with its place in its first user, sorted by digest (rafs.md 1.11). */
export class ChunkTable {
  readonly sizeBytes: number
  readonly #layout: ImageLayout

  constructor(layout: ImageLayout) {
    this.#layout = layout
    let count = 0
    this.#visit(() => count++)
    this.sizeBytes = count * CHUNK_RECORD_SIZE
  }

  /** Writes the table at the start of `out`. */
  write(out: Buffer, blobIndexes: ReadonlyMap<ImageBlob, number>): void {
    const table = out.subarray(0, this.sizeBytes)
    let at = 0
    this.#visit((chunk, fileOffset) => {
      writeRecord(table, at, chunk, blobIndexes.get(chunk.blob) ?? 0, fileOffset)
      at += CHUNK_RECORD_SIZE
    })
    sortRecords(table)
  }

  /** In order of first use; `fileOffset` is where in its first user the chunk stands. */
  #visit(visit: (chunk: ImageChunk, fileOffset: number) => void): void {
    const seen = new ChunkSet()
    for (const index of this.#layout.order) {
      const inode = this.#layout.inodes[index]
      if (inode?.type !== 'regular') continue
      let fileOffset = 0
      for (const chunk of inode.chunks) {
        if (seen.add(chunk)) visit(chunk, fileOffset)
        fileOffset += chunk.uncompressedSize
      }
    }
  }
}

/**
 * Sorts the records where they stand by digest, then blob. They are sorted as plain numbers made of the start of the
 * digest and the number of the record; only those whose starts are equal are compared in full.
 */
function sortRecords(table: Buffer): void {
  const count = table.length / CHUNK_RECORD_SIZE
  const numberBits = Math.ceil(Math.log2(count + 1))
  const unit = 2 ** numberBits
  const dropped = Math.max(0, 32 - (KEY_BITS - numberBits))
  const start = (record: number): number => table.readUInt32BE(record * CHUNK_RECORD_SIZE) >>> dropped
  const keys = new Float64Array(count)
  for (let record = 0; record < count; record++) keys[record] = start(record) * unit + record
  const order = Uint32Array.from(keys.sort(), key => key % unit)
  for (let first = 0; first < count;) {
    let end = first + 1
    while (end < count && start(order[end] ?? 0) === start(order[first] ?? 0)) end++
    if (end > first + 1) order.subarray(first, end).sort((a, b) => compareRecords(table, a, b))
    first = end
  }
  permute(table, order)
}

function compareRecords(table: Buffer, a: number, b: number): number {
  const [atA, atB] = [a * CHUNK_RECORD_SIZE, b * CHUNK_RECORD_SIZE]
  const blobIndex = CHUNK_OFF.blobIndex
  return (
    table.compare(table, atB, atB + DIGEST_SIZE, atA, atA + DIGEST_SIZE) ||
    table.readUInt32LE(atA + blobIndex) - table.readUInt32LE(atB + blobIndex) ||
    a - b
  )
}

/** Moves record `order[i]` to place i, along the cycles of the permutation; `order` is used up. */
function permute(table: Buffer, order: Uint32Array): void {
  const spare = Buffer.alloc(CHUNK_RECORD_SIZE)
  for (let first = 0; first < order.length; first++) {
    if (order[first] === first) continue
    table.copy(spare, 0, first * CHUNK_RECORD_SIZE, (first + 1) * CHUNK_RECORD_SIZE)
    let place = first
    for (let from = order[place] ?? 0; from !== first; from = order[place] ?? 0) {
      table.copyWithin(place * CHUNK_RECORD_SIZE, from * CHUNK_RECORD_SIZE, (from + 1) * CHUNK_RECORD_SIZE)
      order[place] = place
      place = from
    }
    spare.copy(table, place * CHUNK_RECORD_SIZE)
    order[place] = place
  }
}

function writeRecord(
  out: Buffer,
  at: number,
  chunk: ImageChunk,
  blobIndex: number,
  fileOffset: number,
): void {
  out.write(chunk.digest, at + CHUNK_OFF.digest, 'hex')
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
