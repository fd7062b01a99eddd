/** Blob table and extended blob table of a RAFS v5 bootstrap (Nydus on-disk format: RAFS v5). */
import type { ByteSource } from '../../common/byte-source.js'
import { isBlobId } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { emptyBlob } from '../empty-blob.js'
import {
  BLOB_FEATURES,
  MAX_CHUNKS_PER_BLOB,
  MAX_COMPRESSED_BLOB_SIZE,
  MAX_UNCOMPRESSED_BLOB_SIZE,
  PLACEHOLDER_BLOB_ID,
} from '../format.js'
import type { ImageBlob } from '../image-tree.js'
import { readStruct, type StructView } from '../struct-view.js'
import * as F from './format.js'
import type { SuperblockV5 } from './superblock.js'

const KNOWN_FEATURES = Object.values(BLOB_FEATURES).reduce((all, bit) => all | bit, 0)

export interface BlobTableV5 {
  readonly blobs: ImageBlob[]
  /** False for images of old builders: their chunks have no index, and blobs no sizes. */
  readonly extended: boolean
}

/**
 * Refuses images whose chunks cannot be told apart without reading all of them: nothing says where to keep one.
 * @throws RAFS_UNSUPPORTED
 */
export function requireIndexes({ extended, blobs }: BlobTableV5): void {
  if (extended || blobs.length === 0) return
  throw fault(
    'RAFS_UNSUPPORTED',
    'the RAFS v5 image has no extended blob table, as those of 2020, and cannot be served: convert it to RAFS v6',
  )
}

/** @throws RAFS_FIELD, RAFS_TRUNCATED */
export function parseBlobTableV5(source: ByteSource, sb: SuperblockV5): BlobTableV5 {
  const blobs = parseIds(source, sb).map(({ id, prefetchSize }) => ({
    ...newBlob(id, sb),
    ...(prefetchSize > 0 && { prefetchSize }),
  }))
  const { offset, size } = sb.extendedBlobTable
  if (size === 0) return { blobs, extended: false }
  const view = readStruct(source, offset, size, 'RAFS v5 extended blob table')
  const entries = size / F.EXTENDED_BLOB_ENTRY_SIZE
  view.check(entries === blobs.length, 0, 'entries', entries, `the image has ${blobs.length} blobs`)
  blobs.forEach((blob, index) => parseExtended(view, index * F.EXTENDED_BLOB_ENTRY_SIZE, blob))
  return { blobs, extended: true }
}

/** Ids with a NUL between them; what the alignment adds at the end is shorter than any entry. */
function parseIds(source: ByteSource, { blobTable }: SuperblockV5): { id: string; prefetchSize: number }[] {
  const view = readStruct(source, blobTable.offset, blobTable.size, 'RAFS v5 blob table')
  const ids: { id: string; prefetchSize: number }[] = []
  for (let at = 0; view.bytes.length - at > F.BLOB_PREFETCH_SIZE;) {
    const start = at + F.BLOB_PREFETCH_SIZE
    const nul = view.bytes.indexOf(0, start)
    const end = nul < 0 ? view.bytes.length : nul
    const id = view.text(start, end - start)
    view.check(
      isBlobId(id) || id === PLACEHOLDER_BLOB_ID,
      start,
      'blob_id',
      id.slice(0, 80),
      '64 lower-case hex digits are expected',
    )
    // What builders want to be prefetched they put first in a blob.
    ids.push({
      id,
      prefetchSize:
        view.u32(at + F.BLOB_PREFETCH_OFF.offset) === 0 ? view.u32(at + F.BLOB_PREFETCH_OFF.size) : 0,
    })
    at = end + 1
  }
  return ids
}

function newBlob(id: string, { chunkSize, compressor, digester }: SuperblockV5): ImageBlob {
  return emptyBlob({ id, chunkSize, compressor, digester, features: 0 })
}

function parseExtended(view: StructView, base: number, blob: ImageBlob): void {
  const O = F.EXTENDED_BLOB_OFF
  blob.chunkCount = view.u32(base + O.chunkCount)
  view.check(
    blob.chunkCount <= MAX_CHUNKS_PER_BLOB,
    base + O.chunkCount,
    'chunk_count',
    blob.chunkCount,
    'at most 2^24',
  )
  // Features that nobody knows are none of this format's business: they are left out, not refused.
  blob.features = (view.u32(base + O.features) & KNOWN_FEATURES) >>> 0
  blob.uncompressedSize = view.u64(base + O.uncompressedSize, 'uncompressed_size')
  view.check(
    blob.uncompressedSize <= MAX_UNCOMPRESSED_BLOB_SIZE,
    base + O.uncompressedSize,
    'uncompressed_size',
    blob.uncompressedSize,
    'at most 2^44',
  )
  blob.compressedSize = view.u64(base + O.compressedSize, 'compressed_size')
  view.check(
    blob.compressedSize <= MAX_COMPRESSED_BLOB_SIZE,
    base + O.compressedSize,
    'compressed_size',
    blob.compressedSize,
    'at most 2^40',
  )
}
