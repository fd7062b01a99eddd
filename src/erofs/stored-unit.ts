/**
 * How the bytes of a blob decode: runs of stored bytes that are read, decrypted and decompressed as a whole, and the check
 * of the chunks that they give (RAFS data blob; digests, compression, encryption).
 */
import { decompress, type Compressor, type UnitCipher } from '../common/codec.js'
import { crc32c } from '../common/crc32c.js'
import { digestOf, type Digester } from '../common/digest.js'
import { fault } from '../common/fault.js'
import type { BlobMeta } from './blob-meta.js'
import type { BlobEntry } from './blob-table.js'

/** A chunk that stands alone, or a batch of small chunks that were compressed together. */
export interface StoredUnit {
  /** Where the stored bytes are, in the stored blob. */
  readonly storedOffset: number
  readonly storedLength: number
  /** Chunk indexes that it yields, consecutive. */
  readonly firstChunk: number
  readonly chunkCount: number
  /** `none` where it is stored raw. */
  readonly compressor: Compressor
  readonly cipher: UnitCipher | undefined
  readonly uncompressedSize: number
}

/** The unit that yields a chunk of the blob. Chunks of one batch give equal units. */
export function storedUnit(blob: BlobEntry, { chunks, batches }: BlobMeta, chunk: number): StoredUnit {
  const index = chunks.batchIndex(chunk)
  const batch = index === undefined ? undefined : batches[index]
  if (batch === undefined) {
    return {
      storedOffset: chunks.compressedOffset(chunk),
      storedLength: chunks.compressedSize(chunk),
      firstChunk: chunk,
      chunkCount: 1,
      compressor: chunks.isCompressed(chunk) ? blob.compressor : 'none',
      cipher: chunks.isEncrypted(chunk) ? blob.cipher : undefined,
      uncompressedSize: chunks.size(chunk),
    }
  }
  const { storedOffset, compressedSize, uncompressedSize, firstChunk, chunkCount } = batch
  return {
    storedOffset,
    storedLength: compressedSize,
    firstChunk,
    chunkCount,
    compressor: compressedSize === uncompressedSize ? 'none' : blob.compressor,
    cipher: blob.cipher,
    uncompressedSize,
  }
}

/** Decrypts and decompresses; what is stored raw and in the clear is not copied. @throws CHUNK_DECODE */
export function decodeUnit(unit: StoredUnit, stored: Uint8Array): Uint8Array {
  if (stored.length !== unit.storedLength)
    throw fault(
      'CHUNK_DECODE',
      `${stored.length} stored bytes came where ${unit.storedLength} were asked for`,
    )
  return decompress(unit.compressor, unit.cipher?.decrypt(stored) ?? stored, unit.uncompressedSize)
}

/** A chunk whose bytes are to be checked. */
export interface CheckedChunk {
  readonly blobId: string
  /** Index in the blob. */
  readonly chunk: number
  readonly digester: Digester
  /** 32 bytes; undefined where the image does not know it, then the CRC-32C serves. */
  readonly digest: Uint8Array | undefined
  readonly crc32: number | undefined
}

/** @throws CHUNK_DIGEST_MISMATCH with what was expected and found, also where nothing is known to check against */
export function checkChunk(expected: CheckedChunk, bytes: Uint8Array): void {
  const { blobId, chunk, digest, crc32 } = expected
  if (digest !== undefined) {
    const found = digestOf(expected.digester, bytes)
    if (Buffer.compare(found, digest) !== 0) throw mismatch(blobId, chunk, hex(digest), hex(found))
  } else if (crc32 !== undefined) {
    const found = crc32c(bytes)
    if (found !== crc32)
      throw mismatch(blobId, chunk, `crc32c:${crc32.toString(16)}`, `crc32c:${found.toString(16)}`)
  } else {
    throw fault(
      'CHUNK_DIGEST_MISMATCH',
      `chunk ${chunk} of blob ${blobId} cannot be checked: the bootstrap has no digest for it`,
      { context: { blobId, chunk } },
    )
  }
}

function mismatch(blobId: string, chunk: number, expected: string, found: string): Error {
  return fault(
    'CHUNK_DIGEST_MISMATCH',
    `chunk ${chunk} of blob ${blobId} has digest ${found}, the bootstrap says ${expected}: ` +
      'the stored blob is damaged or was replaced',
    { context: { blobId, chunk, expected, found } },
  )
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
