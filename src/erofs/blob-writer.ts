import { COMPRESSORS, type Compressor } from '../common/codec.js'
import {
  BLOCK_SIZE,
  CHUNK_INFO_V1_SIZE,
  CI_HEADER_OFF,
  CI_HEADER_SIZE,
  CI_MAGIC,
  TAR_HEADER_SIZE,
  TOC_ENTRY_SIZE,
  TOC_FLAGS,
  TOC_OFF,
  alignUp,
} from './format.js'
import type { ImageBlob, ImageChunk } from './image-tree.js'

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

/** The array of chunk infos, version 1, in chunk order (rafs.md 2.5). */
export function encodeChunkInfos(chunks: readonly ImageChunk[]): Buffer {
  const out = Buffer.alloc(chunks.length * CHUNK_INFO_V1_SIZE)
  chunks.forEach((chunk, i) => {
    const at = i * CHUNK_INFO_V1_SIZE
    out.writeBigUInt64LE(BigInt(chunk.uncompressedOffset) | sizeBits(chunk.uncompressedSize, 8n), at)
    out.writeBigUInt64LE(BigInt(chunk.compressedOffset) | sizeBits(chunk.compressedSize, 40n), at + 8)
  })
  return out
}

/** A size less one: bits 0 to 19 on top, bits 20 to 23 at `highShift`. */
function sizeBits(sizeBytes: number, highShift: bigint): bigint {
  const value = BigInt(sizeBytes - 1)
  return ((value & 0xfffffn) << 44n) | ((value >> 20n) << highShift)
}

/** The chunk digests in chunk order: the content of `blob.digest`. */
export function encodeDigests(chunks: readonly ImageChunk[]): Buffer {
  return Buffer.from(chunks.map(chunk => chunk.digest).join(''), 'hex')
}

/** The header after the stored chunk infos of a blob whose fields are filled in. */
export function encodeCiHeader(blob: ImageBlob): Buffer {
  const out = Buffer.alloc(CI_HEADER_SIZE)
  out.writeUInt32LE(CI_MAGIC, CI_HEADER_OFF.magic)
  out.writeUInt32LE(blob.features, CI_HEADER_OFF.features)
  out.writeUInt32LE(COMPRESSORS[blob.ciCompressor], CI_HEADER_OFF.compressor)
  out.writeUInt32LE(blob.chunkCount, CI_HEADER_OFF.entries)
  out.writeBigUInt64LE(BigInt(blob.ciOffset), CI_HEADER_OFF.offset)
  out.writeBigUInt64LE(BigInt(blob.ciCompressedSize), CI_HEADER_OFF.compressedSize)
  out.writeBigUInt64LE(BigInt(blob.ciUncompressedSize), CI_HEADER_OFF.uncompressedSize)
  out.writeUInt32LE(CI_MAGIC, CI_HEADER_OFF.magic2)
  return out
}

/** The metadata of a blob as caches keep it: chunk infos padded to a block, then the header (rafs.md 2.7). */
export function encodeCacheMeta(blob: ImageBlob, chunkInfos: Buffer): Buffer {
  const out = Buffer.alloc(alignUp(chunkInfos.length, BLOCK_SIZE) + CI_HEADER_SIZE)
  chunkInfos.copy(out)
  encodeCiHeader(blob).copy(out, out.length - CI_HEADER_SIZE)
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
