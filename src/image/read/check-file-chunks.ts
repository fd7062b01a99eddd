/** The chunk indexes of regular files, against blob table and chunk table, and as the kernel takes them. */
import { type BlobEntry, hasFeature } from '../../erofs/blob-table.js'
import * as F from '../../erofs/format.js'
import type { Superblock } from '../../erofs/superblock.js'
import { type CheckedChunks, readU64 } from './check-chunks.js'
import { badPart } from './parts.js'

const X = F.EXTENDED_INODE_OFF

export class FileChunksCheck {
  readonly #bytes: Buffer
  readonly #sb: Superblock
  readonly #blobs: readonly BlobEntry[]
  readonly #records: CheckedChunks

  constructor(bytes: Buffer, sb: Superblock, blobs: readonly BlobEntry[], records: CheckedChunks) {
    this.#bytes = bytes
    this.#sb = sb
    this.#blobs = blobs
    this.#records = records
  }

  /**
   * @param at - absolute offset of the inode
   * @param tail - absolute offset of what follows inode and attributes
   * @returns how many chunks the file has
   * @throws RAFS_FIELD
   */
  check(nid: number, at: number, tail: number, size: number): number {
    if (size === 0) return 0
    const layout = this.#bytes.readUInt16LE(at) >> 1
    if (layout !== F.INODE_LAYOUTS.chunkBased)
      throw badPart('inode', at, 'i_format', layout, 'file data of RAFS stands in blobs, as chunks')
    const { chunkSize, blockSize } = this.#sb
    const format = this.#bytes.readUInt32LE(at + X.u)
    const known = F.CHUNK_FORMAT_INDEXES | F.CHUNK_FORMAT_BITS_MASK
    if ((format & F.CHUNK_FORMAT_INDEXES) === 0 || (format & ~known) !== 0)
      throw badPart(
        'inode',
        at + X.u,
        'i_u',
        format,
        'chunk indexes (0x20) and a chunk size in bits 0 to 4 are expected',
      )
    const kernelChunk = blockSize * 2 ** (format & F.CHUNK_FORMAT_BITS_MASK)
    // The kernel looks at one index for each of its own chunks.
    if (kernelChunk !== chunkSize && (kernelChunk < chunkSize || kernelChunk < size))
      throw badPart(
        'inode',
        at + X.u,
        'i_u',
        format,
        `chunks have ${chunkSize} bytes, or the file's ${size} are one`,
      )
    const count = Math.ceil(size / chunkSize)
    const start = F.alignUp(tail, F.CHUNK_INDEX_SIZE)
    if (start + count * F.CHUNK_INDEX_SIZE > this.#bytes.length)
      throw badPart(
        'inode',
        at + X.size,
        'i_size',
        size,
        `its ${count} chunk indexes end beyond the bootstrap`,
      )
    for (let index = 0; index < count; index++) {
      const entry = start + index * F.CHUNK_INDEX_SIZE
      this.#checkChunkIndex(nid, entry, Math.min(chunkSize, size - index * chunkSize))
      if (index > 0 && kernelChunk !== chunkSize) this.#checkContiguous(nid, entry)
    }
    return count
  }

  #checkChunkIndex(nid: number, at: number, length: number): void {
    const bytes = this.#bytes
    const device = bytes.readUInt16LE(at + F.CHUNK_INDEX_OFF.device)
    const blobIndex = (device & 0xff) - 1
    const blob = this.#blobs[blobIndex]
    const wrong = (field: string, value: number, why: string): Error =>
      badPart('chunk index', at, field, value, `${why} (of inode ${nid})`)
    if (blob === undefined) throw wrong('device_id', device, `the image has ${this.#blobs.length} blobs`)
    const index = ((device >> 8) << 16) | bytes.readUInt16LE(at + F.CHUNK_INDEX_OFF.chunkLow)
    if (index >= blob.chunkCount && !hasFeature(blob, 'chunkdictGenerated'))
      throw wrong('chunk index', index, `blob ${blobIndex} has ${blob.chunkCount} chunks`)
    const offset = bytes.readUInt32LE(at + F.CHUNK_INDEX_OFF.block) * this.#sb.blockSize
    if (offset + length > blob.uncompressedSize)
      throw wrong(
        'blkaddr',
        offset / this.#sb.blockSize,
        `blob ${blobIndex} has ${blob.uncompressedSize} bytes`,
      )
    if (this.#records.count === 0) return
    const record = this.#records.find(blobIndex, index)
    if (record === undefined)
      throw wrong('chunk index', index, `the chunk table has no record of this chunk of blob ${blobIndex}`)
    this.#records.markUsed(record)
    const recordOffset = readU64(bytes, record + F.CHUNK_OFF.uncompressedOffset)
    const recordSize = bytes.readUInt32LE(record + F.CHUNK_OFF.uncompressedSize)
    if (recordOffset !== offset)
      throw wrong(
        'blkaddr',
        offset / this.#sb.blockSize,
        `the chunk table says byte ${recordOffset}, at byte ${record}`,
      )
    if (recordSize !== length)
      throw wrong(
        'chunk index',
        index,
        `the chunk has ${recordSize} bytes by the chunk table, the file needs ${length}`,
      )
  }

  /** One chunk to the kernel: each piece follows the one before in the same blob. */
  #checkContiguous(nid: number, at: number): void {
    const { device, block } = F.CHUNK_INDEX_OFF
    const before = at - F.CHUNK_INDEX_SIZE
    const blob = this.#bytes[at + device]
    const address = this.#bytes.readUInt32LE(at + block)
    const expected = this.#bytes.readUInt32LE(before + block) + this.#sb.chunkSize / this.#sb.blockSize
    if (blob !== this.#bytes[before + device] || address !== expected)
      throw badPart(
        'chunk index',
        at,
        'blkaddr',
        address,
        `i_u of inode ${nid} says that its chunks follow one another`,
      )
  }
}
