/**
 * Compression information (CI) of a data blob: where each chunk is stored and how (RAFS data blob, CI header, chunk info
 * arrays of version 1 and 2, batch contexts). It stands in the blob at `ci_offset`, followed by its header, or in a
 * `.blob.meta` file of its own.
 */
import { decompress } from '../common/codec.js'
import { fault } from '../common/fault.js'
import { requireServable, type BlobEntry } from './blob-table.js'
import { ChunkInfos, parseChunkInfos } from './chunk-info.js'
import * as F from './format.js'
import { StructView } from './struct-view.js'

/** One run of stored bytes that decodes to several chunks. */
export interface Batch {
  readonly storedOffset: number
  readonly compressedSize: number
  readonly uncompressedSize: number
  readonly firstChunk: number
  readonly chunkCount: number
}

export interface BlobMeta {
  readonly chunks: ChunkInfos
  /** By context index; a context without members has a `chunkCount` of 0. */
  readonly batches: readonly Batch[]
}

/** What to read from the stored blob to get its metadata: the CI and its header. */
export function storedMetaRange(blob: BlobEntry): { offset: number; length: number } {
  return { offset: blob.ciOffset, length: blob.ciCompressedSize + F.CI_HEADER_SIZE }
}

/**
 * Parses what `storedMetaRange` says to read: decrypts, decompresses, checks header and every chunk.
 * @throws RAFS_UNSUPPORTED for blobs that this release cannot serve, BLOB_META_INVALID
 */
export function parseStoredMeta(blob: BlobEntry, stored: Uint8Array): BlobMeta {
  return parseMetaFile(blob, unpackStoredMeta(blob, stored))
}

/**
 * The `.blob.meta` file of what `storedMetaRange` says to read: decrypted and decompressed. Its chunks are yet to be
 * checked by `parseMetaFile`.
 * @throws RAFS_UNSUPPORTED, BLOB_META_INVALID
 */
export function unpackStoredMeta(blob: BlobEntry, stored: Uint8Array): Uint8Array {
  requireServable(blob)
  requireSize(blob, stored, blob.ciCompressedSize + F.CI_HEADER_SIZE)
  const infoBytes = stored.subarray(0, blob.ciCompressedSize)
  const headerBytes = stored.subarray(blob.ciCompressedSize)
  const header = blob.cipher?.decrypt(headerBytes) ?? headerBytes
  parseHeader(blob, header, blob.ciCompressedSize)
  let info: Uint8Array
  try {
    const packed = blob.cipher && infoBytes.length > 0 ? blob.cipher.decrypt(infoBytes) : infoBytes
    // As for chunks, an array that did not shrink is stored as it is.
    const raw = packed.length === blob.ciUncompressedSize
    info = decompress(raw ? 'none' : blob.ciCompressor, packed, blob.ciUncompressedSize)
  } catch (err) {
    throw invalid(
      blob,
      `its chunk information does not decode: ${err instanceof Error ? err.message : ''}`,
      err,
    )
  }
  const infoArea = F.alignUp(blob.ciUncompressedSize, F.BLOCK_SIZE)
  const file = new Uint8Array(infoArea + F.CI_HEADER_SIZE)
  file.set(info)
  file.set(header, infoArea)
  return file
}

/**
 * Parses a `.blob.meta` file: the CI, uncompressed and padded to 4096, then the header. Where it is refused the blob's own
 * metadata still serves: the reference converter writes the header alone for lz4 images.
 * @throws RAFS_UNSUPPORTED, BLOB_META_INVALID
 */
export function parseMetaFile(blob: BlobEntry, file: Uint8Array): BlobMeta {
  requireServable(blob)
  const infoArea = F.alignUp(blob.ciUncompressedSize, F.BLOCK_SIZE)
  requireSize(blob, file, infoArea + F.CI_HEADER_SIZE)
  const header = parseHeader(blob, file.subarray(infoArea), infoArea)
  return parseInfo(blob, header, file.subarray(0, blob.ciUncompressedSize))
}

function requireSize(blob: BlobEntry, bytes: Uint8Array, size: number): void {
  if (bytes.length === size) return
  throw invalid(blob, `it is ${bytes.length} bytes long where the bootstrap says ${size}`)
}

function invalid(blob: BlobEntry, why: string, cause?: unknown): Error {
  return fault('BLOB_META_INVALID', `metadata of blob ${blob.blobId} is damaged or of another blob: ${why}`, {
    cause,
    context: { blobId: blob.blobId },
  })
}

interface Contexts {
  readonly offset: number
  readonly count: number
}

function parseHeader(blob: BlobEntry, bytes: Uint8Array, at: number): Contexts {
  const O = F.CI_HEADER_OFF
  const view = new StructView(bytes, at, `metadata header of blob ${blob.blobId}`, 'BLOB_META_INVALID')
  for (const [field, offset] of [
    ['magic', O.magic],
    ['magic2', O.magic2],
  ] as const)
    view.check(view.u32(offset) === F.CI_MAGIC, offset, field, view.u32(offset), '0xb10bb10b is expected')
  const expect = (offset: number, field: string, value: number, expected: number): void =>
    view.check(value === expected, offset, field, value, `the bootstrap says ${expected}`)
  if ((blob.features & F.BLOB_FEATURES.chunkdictGenerated) === 0)
    expect(O.entries, 'ci_entries', view.u32(O.entries), blob.chunkCount)
  expect(O.offset, 'ci_offset', view.u64(O.offset, 'ci_offset'), blob.ciOffset)
  const compressed = view.u64(O.compressedSize, 'ci_compressed_size')
  expect(O.compressedSize, 'ci_compressed_size', compressed, blob.ciCompressedSize)
  const uncompressed = view.u64(O.uncompressedSize, 'ci_uncompressed_size')
  expect(O.uncompressedSize, 'ci_uncompressed_size', uncompressed, blob.ciUncompressedSize)
  if ((blob.features & F.BLOB_FEATURES.batch) === 0) return { offset: 0, count: 0 }
  return parseContexts(view, blob)
}

function parseContexts(view: StructView, blob: BlobEntry): Contexts {
  const O = F.CI_HEADER_OFF
  const count = view.u32(O.contextsCount)
  const offset = view.u64(O.contextsOffset, 'batch table offset')
  const size = view.u64(O.contextsSize, 'batch table size')
  if (count === 0) return { offset: 0, count: 0 }
  const infoEnd = blob.chunkCount * F.CHUNK_INFO_V2_SIZE
  view.check(
    offset >= infoEnd,
    O.contextsOffset,
    'batch table offset',
    offset,
    `chunk infos end at ${infoEnd}`,
  )
  const inside = offset + size <= blob.ciUncompressedSize && count * F.BATCH_CONTEXT_SIZE <= size
  view.check(inside, O.contextsCount, 'batch count', count, `${size} bytes at ${offset} do not hold so many`)
  return { offset, count }
}

function parseInfo(blob: BlobEntry, contexts: Contexts, info: Uint8Array): BlobMeta {
  const chunks = parseChunkInfos(blob, info)
  const batches: Batch[] = []
  const view = new StructView(info, 0, `batch contexts of blob ${blob.blobId}`, 'BLOB_META_INVALID')
  for (let index = 0; index < contexts.count; index++) {
    const base = contexts.offset + index * F.BATCH_CONTEXT_SIZE
    const compressedSize = view.u32(base + F.BATCH_CONTEXT_OFF.compressedSize)
    const uncompressedSize = view.u32(base + F.BATCH_CONTEXT_OFF.uncompressedSize)
    const field = 'uncompressed_size'
    const sane = uncompressedSize <= F.MAX_CHUNK_SIZE && compressedSize <= F.MAX_CHUNK_SIZE
    view.check(sane, base, field, uncompressedSize, 'a batch has at most 16 MiB')
    batches.push({ storedOffset: 0, compressedSize, uncompressedSize, firstChunk: 0, chunkCount: 0 })
  }
  return { chunks, batches: assignMembers(blob, chunks, batches) }
}

/** Finds each batch's members: they are consecutive, share their stored offset, and lie inside the decoded batch. */
function assignMembers(blob: BlobEntry, chunks: ChunkInfos, contexts: readonly Batch[]): Batch[] {
  const batches = [...contexts]
  for (let chunk = 0; chunk < chunks.count; chunk++) {
    const index = chunks.batchIndex(chunk)
    if (index === undefined) continue
    const batch = batches[index]
    const bad = (why: string): Error => invalid(blob, `chunk ${chunk} of batch ${index} ${why}`)
    if (batch === undefined) throw bad(`is beyond the ${batches.length} batches`)
    const storedOffset = chunks.compressedOffset(chunk)
    const first = batch.chunkCount === 0 ? chunk : batch.firstChunk
    if (batch.chunkCount > 0 && (first + batch.chunkCount !== chunk || storedOffset !== batch.storedOffset))
      throw bad('does not follow the other members')
    if (chunks.offsetInBatch(chunk) + chunks.size(chunk) > batch.uncompressedSize)
      throw bad(`ends beyond the ${batch.uncompressedSize} bytes of its batch`)
    if (batch.compressedSize === 0 || storedOffset + batch.compressedSize > blob.ciOffset)
      throw bad(`is stored beyond the chunk data, which ends at ${blob.ciOffset}`)
    batches[index] = { ...batch, storedOffset, firstChunk: first, chunkCount: batch.chunkCount + 1 }
  }
  return batches
}
