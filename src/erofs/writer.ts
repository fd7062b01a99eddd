import { CIPHERS, COMPRESSORS, type Compressor } from '../common/codec.js'
import { DIGESTERS, type Digester } from '../common/digest.js'
import { fault } from '../common/fault.js'
import {
  BLOB_ENTRY_SIZE,
  BLOB_FEATURES,
  BLOB_OFF,
  BLOCK_BITS,
  BLOCK_SIZE,
  COMPAT_RAFS_V6,
  COMPRESSION_FLAGS,
  DEVICE_OFF,
  DEVICE_SLOT_SIZE,
  DEVICE_TABLE_OFFSET,
  DEVICE_TABLE_SLOT,
  EROFS_MAGIC,
  FLAT_DEVICE_ALIGNMENT,
  HASH_FLAGS,
  INCOMPAT_RAFS_V6,
  MAX_BLOBS,
  MAX_BOOTSTRAP_SIZE,
  RAFS_FLAGS,
  RAFS_SB_OFF,
  RAFS_SUPERBLOCK_OFFSET,
  SB_OFF,
  SUPERBLOCK_OFFSET,
  alignUp,
} from './format.js'
import type { DirectoryInode, ImageBlob, ImageInode } from './image-tree.js'
import { type ImageLayout, layoutImage } from './writer-layout.js'
import { ChunkTable } from './writer-chunk-table.js'
import { writeInode } from './writer-inode.js'
import { writeU64 } from './write-u64.js'

/** Bytes of one entry of the prefetch table. */
const NID_SIZE = 4

export interface BootstrapOptions {
  readonly chunkSize: number
  /** The image as a whole; each blob of the tree says its own. */
  readonly compressor: Compressor
  readonly digester: Digester
  /** False when owners mean nothing: a server shows its own then. True where it is left out. */
  readonly explicitOwners?: boolean
  /** What to prefetch, in this order; the root stands for everything. */
  readonly prefetch?: readonly ImageInode[]
}

/** A bootstrap that is made while it is written. */
export interface BootstrapPieces {
  /** The file from its start to its end; each piece may be overwritten by the next. */
  readonly pieces: Iterable<Uint8Array>
  readonly blobs: readonly ImageBlob[]
}

export interface EncodedBootstrap {
  readonly bytes: Buffer
  /** The blobs it references, in blob table order: EROFS device i + 1. */
  readonly blobs: readonly ImageBlob[]
}

/**
 * A RAFS v6 bootstrap (rafs.md 1 and 6.2) of the tree: an EROFS image whose file data lives in one device a blob.
 * Equal trees give equal bytes. @throws IMAGE_TOO_LARGE
 */
export function encodeBootstrap(root: DirectoryInode, options: BootstrapOptions): EncodedBootstrap {
  const plan = new BootstrapPlan(root, options)
  const bytes = Buffer.alloc(plan.headSize + plan.tailSize)
  plan.writeHead(bytes)
  plan.writeTail(bytes.subarray(plan.headSize))
  return { bytes, blobs: plan.blobs }
}

/** The same in pieces, for images whose bootstrap is better never whole in memory. */
export function encodeBootstrapPieces(root: DirectoryInode, options: BootstrapOptions): BootstrapPieces {
  const plan = new BootstrapPlan(root, options)
  return { blobs: plan.blobs, pieces: piecesOf(plan) }
}

function* piecesOf(plan: BootstrapPlan): Generator<Uint8Array, void, undefined> {
  const memory = Buffer.alloc(Math.max(plan.headSize, plan.tailSize))
  const head = memory.subarray(0, plan.headSize)
  plan.writeHead(head)
  yield head
  const tail = memory.subarray(0, plan.tailSize).fill(0)
  plan.writeTail(tail)
  yield tail
}

/** Where the parts of a bootstrap stand. */
class BootstrapPlan {
  readonly blobs: readonly ImageBlob[]
  /** Bytes of all but the chunk table. */
  readonly headSize: number
  /** Bytes of the chunk table and what fills its last block. */
  readonly tailSize: number
  readonly #options: BootstrapOptions
  readonly #layout: ImageLayout
  readonly #chunks: ChunkTable
  readonly #blobIndexes: ReadonlyMap<ImageBlob, number>
  readonly #prefetch: readonly ImageInode[]
  readonly #blobTableOffset: number
  readonly #prefetchTableOffset: number
  readonly #metaOffset: number

  constructor(root: DirectoryInode, options: BootstrapOptions) {
    this.#options = options
    this.#layout = layoutImage(root)
    const { blobs } = this.#layout
    if (blobs.length > MAX_BLOBS) {
      throw fault(
        'IMAGE_TOO_LARGE',
        `the image has ${blobs.length} layers with data, RAFS v6 holds ${MAX_BLOBS}: squash some of them`,
      )
    }
    this.blobs = blobs
    this.#blobIndexes = new Map(blobs.map((blob, index) => [blob, index]))
    this.#blobTableOffset = alignUp(DEVICE_TABLE_OFFSET + DEVICE_SLOT_SIZE * blobs.length, BLOCK_SIZE)
    this.#prefetchTableOffset = this.#blobTableOffset + BLOB_ENTRY_SIZE * blobs.length
    this.#prefetch = blobs.length === 0 ? [] : (options.prefetch ?? [])
    const tablesEnd = this.#prefetchTableOffset + this.#prefetch.length * NID_SIZE
    this.#metaOffset = blobs.length === 0 ? 0 : alignUp(tablesEnd, BLOCK_SIZE)
    this.headSize = this.#metaOffset + this.#layout.sizeBytes
    this.#chunks = new ChunkTable(this.#layout)
    const sizeBytes = alignUp(this.headSize + this.#chunks.sizeBytes, BLOCK_SIZE)
    this.tailSize = sizeBytes - this.headSize
    if (sizeBytes >= MAX_BOOTSTRAP_SIZE) {
      throw fault('IMAGE_TOO_LARGE', `the image's metadata would take ${sizeBytes} bytes, 2 GiB is the limit`)
    }
  }

  /** Writes everything but the chunk table; `out` is zeros. */
  writeHead(out: Buffer): void {
    const { blobs } = this
    this.#writeSuperblock(out)
    this.#writePrefetch(out)
    writeDevices(out, blobs, this.headSize + this.tailSize)
    blobs.forEach((blob, index) => {
      writeBlob(out, this.#blobTableOffset + index * BLOB_ENTRY_SIZE, blob, index)
    })
    const context = {
      out,
      metaOffset: this.#metaOffset,
      layout: this.#layout,
      blobIndexes: this.#blobIndexes,
      chunkSize: this.#options.chunkSize,
    }
    for (const index of this.#layout.order) {
      const inode = this.#layout.inodes[index]
      if (inode) writeInode(context, index, inode)
    }
  }

  /** Writes the chunk table; `out` is zeros. */
  writeTail(out: Buffer): void {
    this.#chunks.write(out, this.#blobIndexes)
  }

  #writeSuperblock(out: Buffer): void {
    writeSuperblock(out, this.#layout, this.#metaOffset)
    const ext = RAFS_SUPERBLOCK_OFFSET
    writeU64(out, ext + RAFS_SB_OFF.flags, rafsFlags(this.#layout, this.#options))
    writeU64(out, ext + RAFS_SB_OFF.blobTableOffset, this.#blobTableOffset)
    out.writeUInt32LE(BLOB_ENTRY_SIZE * this.blobs.length, ext + RAFS_SB_OFF.blobTableSize)
    out.writeUInt32LE(this.#options.chunkSize, ext + RAFS_SB_OFF.chunkSize)
    writeU64(out, ext + RAFS_SB_OFF.chunkTableOffset, this.headSize)
    writeU64(out, ext + RAFS_SB_OFF.chunkTableSize, this.#chunks.sizeBytes)
  }

  #writePrefetch(out: Buffer): void {
    if (this.#prefetch.length === 0) return
    const ext = RAFS_SUPERBLOCK_OFFSET
    writeU64(out, ext + RAFS_SB_OFF.prefetchTableOffset, this.#prefetchTableOffset)
    out.writeUInt32LE(this.#prefetch.length * NID_SIZE, ext + RAFS_SB_OFF.prefetchTableSize)
    const nids = nidsOf(this.#prefetch, this.#layout)
    this.#prefetch.forEach((inode, i) => {
      out.writeUInt32LE(nids.get(inode) ?? 0, this.#prefetchTableOffset + i * NID_SIZE)
    })
  }
}

function nidsOf(wanted: readonly ImageInode[], layout: ImageLayout): Map<ImageInode, number> {
  const nids = new Map(wanted.map(inode => [inode, 0]))
  layout.inodes.forEach((inode, name) => {
    if (nids.has(inode)) nids.set(inode, layout.nid(layout.inodeOf(name)))
  })
  return nids
}

function writeSuperblock(out: Buffer, layout: ImageLayout, metaOffset: number): void {
  const sb = SUPERBLOCK_OFFSET
  out.writeUInt32LE(EROFS_MAGIC, sb + SB_OFF.magic)
  out.writeUInt32LE(COMPAT_RAFS_V6, sb + SB_OFF.featureCompat)
  out.writeUInt8(BLOCK_BITS, sb + SB_OFF.blockBits)
  out.writeUInt16LE(layout.nid(0), sb + SB_OFF.rootNid)
  writeU64(out, sb + SB_OFF.inos, layout.inodes.length)
  const blocks = layout.blobs.reduce((sum, blob) => sum + blob.uncompressedSize / BLOCK_SIZE, 0)
  out.writeUInt32LE(Math.min(blocks, 0xffffffff), sb + SB_OFF.blocks)
  out.writeUInt32LE(metaOffset / BLOCK_SIZE, sb + SB_OFF.metaBlock)
  out.writeUInt32LE(INCOMPAT_RAFS_V6, sb + SB_OFF.featureIncompat)
  out.writeUInt16LE(layout.blobs.length, sb + SB_OFF.extraDevices)
  out.writeUInt16LE(DEVICE_TABLE_SLOT, sb + SB_OFF.deviceTableSlot)
}

function rafsFlags(layout: ImageLayout, options: BootstrapOptions): number {
  const digestsInBlobs = layout.blobs.every(
    ({ features }) => (features & BLOB_FEATURES.inlinedChunkDigest) !== 0,
  )
  const encrypted = layout.blobs.some(({ cipher }) => cipher !== undefined)
  return (
    COMPRESSION_FLAGS[options.compressor] |
    HASH_FLAGS[options.digester] |
    (options.explicitOwners === false ? 0 : RAFS_FLAGS.explicitUidGid) |
    (digestsInBlobs ? RAFS_FLAGS.inlinedChunkDigest : 0) |
    (encrypted ? RAFS_FLAGS.encryptionAes128Xts : RAFS_FLAGS.encryptionNone) |
    (layout.hasXattrs ? RAFS_FLAGS.hasXattr : 0)
  )
}

/** @param sizeBytes - of the bootstrap, which an export of everything to one disk begins with */
function writeDevices(out: Buffer, blobs: readonly ImageBlob[], sizeBytes: number): void {
  let position = sizeBytes
  blobs.forEach((blob, index) => {
    const slot = DEVICE_TABLE_OFFSET + index * DEVICE_SLOT_SIZE
    const mapped = alignUp(position, FLAT_DEVICE_ALIGNMENT)
    position = mapped + blob.uncompressedSize
    out.write(blob.id, slot + DEVICE_OFF.tag, 'latin1')
    out.writeUInt32LE(blob.uncompressedSize / BLOCK_SIZE, slot + DEVICE_OFF.blocks)
    // A set of blobs too big for one 16 TiB disk cannot be flattened; 0 tells an export so.
    const mappedBlock = mapped / BLOCK_SIZE
    out.writeUInt32LE(mappedBlock > 0xffffffff ? 0 : mappedBlock, slot + DEVICE_OFF.mappedBlock)
  })
}

function writeBlob(out: Buffer, at: number, blob: ImageBlob, index: number): void {
  out.write(blob.id, at + BLOB_OFF.blobId, 'latin1')
  out.writeUInt32LE(index, at + BLOB_OFF.blobIndex)
  out.writeUInt32LE(blob.chunkSize, at + BLOB_OFF.chunkSize)
  out.writeUInt32LE(blob.chunkCount, at + BLOB_OFF.chunkCount)
  out.writeUInt32LE(COMPRESSORS[blob.compressor], at + BLOB_OFF.compressor)
  out.writeUInt32LE(DIGESTERS[blob.digester], at + BLOB_OFF.digester)
  out.writeUInt32LE(blob.features, at + BLOB_OFF.features)
  writeU64(out, at + BLOB_OFF.compressedSize, blob.compressedSize)
  writeU64(out, at + BLOB_OFF.uncompressedSize, blob.uncompressedSize)
  out.writeUInt32LE(COMPRESSORS[blob.ciCompressor], at + BLOB_OFF.ciCompressor)
  writeU64(out, at + BLOB_OFF.ciOffset, blob.ciOffset)
  writeU64(out, at + BLOB_OFF.ciCompressedSize, blob.ciCompressedSize)
  writeU64(out, at + BLOB_OFF.ciUncompressedSize, blob.ciUncompressedSize)
  if (blob.toc) {
    out.writeUInt32LE(blob.toc.sizeBytes, at + BLOB_OFF.tocSize)
    out.set(blob.toc.digest, at + BLOB_OFF.tocDigest)
  }
  if (blob.meta) {
    out.set(blob.meta.digest, at + BLOB_OFF.metaDigest)
    writeU64(out, at + BLOB_OFF.metaSize, blob.meta.sizeBytes)
  }
  if (blob.cipher) {
    out.set(blob.cipher.key, at + BLOB_OFF.metaDigest)
    // Its two halves are the fields metaSize and cipherIv.
    out.set(blob.cipher.iv, at + BLOB_OFF.metaSize)
    out.writeUInt32LE(CIPHERS['aes-128-xts'], at + BLOB_OFF.cipher)
  }
}
