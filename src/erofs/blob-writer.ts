import { COMPRESSORS, type Compressor } from '../common/codec.js'
import {
  BATCH_CONTEXT_OFF,
  BATCH_CONTEXT_SIZE,
  BLOB_FEATURES,
  BLOCK_SIZE,
  CHUNK_INFO_FLAGS,
  CHUNK_INFO_V1_SIZE,
  CHUNK_INFO_V2_SIZE,
  CI_HEADER_OFF,
  CI_HEADER_SIZE,
  CI_MAGIC,
  DIGEST_SIZE,
  TAR_HEADER_SIZE,
  TOC_ENTRY_SIZE,
  TOC_FLAGS,
  TOC_OFF,
  alignUp,
} from './format.js'
import type { ChunkBatch, ImageBlob, ImageChunk } from './image-tree.js'

/** The header that *follows* a section of `sizeBytes` in a data blob (rafs.md 2.2). */
export function encodeSectionHeader(name: string, sizeBytes: number): Buffer {
  const out = Buffer.alloc(TAR_HEADER_SIZE)
  out.write(name, 0, 'latin1')
  const octal = sizeBytes.toString(8)
  if (octal.length <= 11) {
    out.write(octal.padStart(11, '0'), 124, 'latin1')
  } else {
    out.writeUInt8(0x80, 124)
    out.writeBigUInt64BE(BigInt(sizeBytes), 128)
  }
  out.write('0'.repeat(11), 136, 'latin1')
  out.write(' '.repeat(8), 148, 'latin1')
  out.write('0', 156, 'latin1')
  out.write('ustar  \0', 257, 'latin1')
  const checksum = out.reduce((sum, byte) => sum + byte, 0)
  out.write(`${checksum.toString(8).padStart(7, '0')}\0`, 148, 'latin1')
  return out
}

/**
 * True when the stored bytes of a chunk that stands alone are to be decompressed. An encrypted chunk of less than 16
 * bytes is stored raw and longer than it is.
 */
export function isCompressed({ compressedSize, uncompressedSize }: ImageChunk): boolean {
  return compressedSize > 0 && compressedSize < uncompressedSize
}

/** The array of chunk infos in chunk order, and the contexts of the blob's batches behind it (rafs.md 2.5). */
export function encodeChunkInfos(
  blob: ImageBlob,
  chunks: readonly ImageChunk[],
  batches: readonly ChunkBatch[],
): Buffer {
  return (blob.features & BLOB_FEATURES.chunkInfoV2) === 0
    ? encodeInfosV1(chunks)
    : encodeInfosV2(chunks, batches)
}

/** Two words; bits 20 to 23 of a size less one stand apart from its bits 0 to 19. */
function encodeInfosV1(chunks: readonly ImageChunk[]): Buffer {
  const out = Buffer.alloc(chunks.length * CHUNK_INFO_V1_SIZE)
  chunks.forEach((chunk, i) => {
    const at = i * CHUNK_INFO_V1_SIZE
    const size = chunk.uncompressedSize - 1
    const stored = chunk.compressedSize - 1
    const [offsetHigh, offsetLow] = halves(chunk.uncompressedOffset)
    const [storedHigh, storedLow] = halves(chunk.compressedOffset)
    out.writeUInt32LE((offsetLow | ((size >>> 20) << 8)) >>> 0, at)
    out.writeUInt32LE((offsetHigh | (size << 12)) >>> 0, at + 4)
    out.writeUInt32LE(storedLow, at + 8)
    out.writeUInt32LE((storedHigh | ((stored >>> 20) << 8) | (stored << 12)) >>> 0, at + 12)
  })
  return out
}

/** Three words: the uncompressed size is stored less one, the compressed size is not. */
function encodeInfosV2(chunks: readonly ImageChunk[], batches: readonly ChunkBatch[]): Buffer {
  const contexts = chunks.length * CHUNK_INFO_V2_SIZE
  const out = Buffer.alloc(contexts + batches.length * BATCH_CONTEXT_SIZE)
  chunks.forEach((chunk, i) => {
    const at = i * CHUNK_INFO_V2_SIZE
    const [storedHigh, storedLow] = halves(chunk.compressedOffset)
    out.writeUInt32LE(chunk.uncompressedOffset / BLOCK_SIZE, at)
    out.writeUInt32LE(((chunk.uncompressedSize - 1) | (infoFlags(chunk) << 24)) >>> 0, at + 4)
    out.writeUInt32LE(storedLow, at + 8)
    out.writeUInt32LE((storedHigh | (chunk.compressedSize << 8)) >>> 0, at + 12)
    out.writeUInt32LE(chunk.batch?.offset ?? 0, at + 16)
    out.writeUInt32LE(chunk.batch?.batch.index ?? 0, at + 20)
  })
  for (const batch of batches) {
    const at = contexts + batch.index * BATCH_CONTEXT_SIZE
    out.writeUInt32LE(batch.compressedSize, at + BATCH_CONTEXT_OFF.compressedSize)
    out.writeUInt32LE(batch.uncompressedSize, at + BATCH_CONTEXT_OFF.uncompressedSize)
  }
  return out
}

function infoFlags(chunk: ImageChunk): number {
  const { compressed, batch, encrypted } = CHUNK_INFO_FLAGS
  return (
    // Whether a batch is compressed its context says; readers want the flag of its members set all the same.
    (chunk.batch !== undefined || isCompressed(chunk) ? compressed : 0) |
    (chunk.batch === undefined ? 0 : batch) |
    (chunk.blob.cipher === undefined ? 0 : encrypted)
  )
}

/** The upper and the lower 32 bits of a safe integer. */
function halves(value: number): [high: number, low: number] {
  return [Math.floor(value / 2 ** 32), value >>> 0]
}

/** The chunk digests in chunk order: the content of `blob.digest`. */
export function encodeDigests(chunks: readonly ImageChunk[]): Buffer {
  const out = Buffer.alloc(chunks.length * DIGEST_SIZE)
  chunks.forEach(({ digest }, i) => out.write(digest, i * DIGEST_SIZE, 'hex'))
  return out
}

/** The header after the stored chunk infos of a blob whose fields are filled in. */
export function encodeCiHeader(blob: ImageBlob, batchCount: number): Buffer {
  const out = Buffer.alloc(CI_HEADER_SIZE)
  out.writeUInt32LE(CI_MAGIC, CI_HEADER_OFF.magic)
  out.writeUInt32LE(blob.features, CI_HEADER_OFF.features)
  out.writeUInt32LE(COMPRESSORS[blob.ciCompressor], CI_HEADER_OFF.compressor)
  out.writeUInt32LE(blob.chunkCount, CI_HEADER_OFF.entries)
  out.writeBigUInt64LE(BigInt(blob.ciOffset), CI_HEADER_OFF.offset)
  out.writeBigUInt64LE(BigInt(blob.ciCompressedSize), CI_HEADER_OFF.compressedSize)
  out.writeBigUInt64LE(BigInt(blob.ciUncompressedSize), CI_HEADER_OFF.uncompressedSize)
  if (batchCount > 0) {
    out.writeBigUInt64LE(BigInt(blob.chunkCount * CHUNK_INFO_V2_SIZE), CI_HEADER_OFF.contextsOffset)
    out.writeBigUInt64LE(BigInt(batchCount * BATCH_CONTEXT_SIZE), CI_HEADER_OFF.contextsSize)
    out.writeUInt32LE(batchCount, CI_HEADER_OFF.contextsCount)
  }
  out.writeUInt32LE(CI_MAGIC, CI_HEADER_OFF.magic2)
  return out
}

/** The metadata of a blob as caches keep it: chunk infos padded to a block, then the header (rafs.md 2.7). */
export function encodeCacheMeta(chunkInfos: Buffer, header: Buffer): Buffer {
  const out = Buffer.alloc(alignUp(chunkInfos.length, BLOCK_SIZE) + CI_HEADER_SIZE)
  chunkInfos.copy(out)
  header.copy(out, out.length - CI_HEADER_SIZE)
  return out
}

export interface TocSection {
  readonly name: string
  readonly compressor: Compressor
  /** sha256 of the uncompressed content. */
  readonly digest: Uint8Array
  readonly offset: number
  readonly storedSize: number
  readonly size: number
}

/** The table of contents: one entry a section (rafs.md 2.3). */
export function encodeToc(sections: readonly TocSection[]): Buffer {
  const out = Buffer.alloc(sections.length * TOC_ENTRY_SIZE)
  sections.forEach((section, i) => {
    const at = i * TOC_ENTRY_SIZE
    out.writeUInt32LE(tocFlag(section.compressor), at + TOC_OFF.flags)
    out.write(section.name, at + TOC_OFF.name, 'latin1')
    out.set(section.digest, at + TOC_OFF.digest)
    out.writeBigUInt64LE(BigInt(section.offset), at + TOC_OFF.compressedOffset)
    out.writeBigUInt64LE(BigInt(section.storedSize), at + TOC_OFF.compressedSize)
    out.writeBigUInt64LE(BigInt(section.size), at + TOC_OFF.uncompressedSize)
  })
  return out
}

function tocFlag(compressor: Compressor): number {
  // The table cannot say gzip; no section that we write is stored so.
  return compressor === 'zstd' || compressor === 'lz4_block' ? TOC_FLAGS[compressor] : TOC_FLAGS.none
}
