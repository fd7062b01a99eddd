/**
 * Blob table: what each data blob is and how it is coded (RAFS v6 bootstrap, blob table). The algorithms of an entry
 * are authoritative for that blob, whatever the superblock says.
 */
import type { ByteSource } from '../common/byte-source.js'
import { COMPRESSORS, UnitCipher, type Compressor } from '../common/codec.js'
import { DIGESTERS, isBlobId, type Digester } from '../common/digest.js'
import { fault } from '../common/fault.js'
import * as F from './format.js'
import { bitNames, readStruct, type StructView } from './struct-view.js'
import { parseChunkSize, type Table } from './superblock.js'

export interface BlobEntry {
  readonly index: number
  /** 64 hex digits, or PLACEHOLDER_BLOB_ID in a bootstrap that was taken out of its own blob. */
  readonly blobId: string
  readonly chunkSize: number
  readonly chunkCount: number
  readonly compressor: Compressor
  readonly digester: Digester
  /** BLOB_FEATURES. */
  readonly features: number
  /** Size of the stored blob for blobs with `capTarToc`, else of its chunk data alone. */
  readonly compressedSize: number
  /** Size of the uncompressed address space, a multiple of 4096. */
  readonly uncompressedSize: number
  /** Bytes of the table of contents with its tar header at the end of the blob; 0 when unknown. */
  readonly tocSize: number
  /** sha256 over those bytes; meaningless when `tocSize` is 0. */
  readonly tocDigest: Uint8Array
  /** The compression information (chunk infos): stored in the blob, followed by its header of 4096 bytes. */
  readonly ciCompressor: Compressor
  readonly ciOffset: number
  readonly ciCompressedSize: number
  readonly ciUncompressedSize: number
  /** Digest and size of the metadata blob of a `separate` blob. */
  readonly metaDigest: Uint8Array | undefined
  readonly metaSize: number
  /** Present when the blob is encrypted; key and IV stay inside it. */
  readonly cipher: UnitCipher | undefined
}

/** @throws RAFS_FIELD, RAFS_UNSUPPORTED, RAFS_TRUNCATED */
export function parseBlobTable(source: ByteSource, table: Table, chunkSize: number): BlobEntry[] {
  const blobs: BlobEntry[] = []
  for (let index = 0; index < table.size / F.BLOB_ENTRY_SIZE; index++) {
    const offset = table.offset + index * F.BLOB_ENTRY_SIZE
    const view = readStruct(source, offset, F.BLOB_ENTRY_SIZE, `blob entry ${index}`)
    blobs.push(parseEntry(view, index, chunkSize))
  }
  return blobs
}

export function hasFeature(
  blob: Pick<BlobEntry, 'features'>,
  feature: keyof typeof F.BLOB_FEATURES,
): boolean {
  return (blob.features & F.BLOB_FEATURES[feature]) !== 0
}

/**
 * Refuses a blob whose data this release cannot serve, by the name of what it is.
 * @throws RAFS_UNSUPPORTED
 */
export function requireServable(
  blob: Pick<BlobEntry, 'blobId' | 'features' | 'compressor' | 'ciCompressor'>,
): void {
  const why = hasFeature(blob, 'zran')
    ? 'zran (it refers to gzip layers of an OCI image)'
    : hasFeature(blob, 'tarfs')
      ? 'tarfs (it refers to plain tar layers)'
      : hasFeature(blob, 'separate')
        ? 'a reference to the tar layers of an OCI image'
        : hasFeature(blob, 'external')
          ? 'an external blob'
          : blob.compressor === 'gzip' || blob.ciCompressor === 'gzip'
            ? 'gzip chunks (eStargz)'
            : undefined
  if (why === undefined) return
  throw fault(
    'RAFS_UNSUPPORTED',
    `blob ${blob.blobId} is ${why}, which this release cannot serve: convert the image to native RAFS v6`,
    { context: { blobId: blob.blobId, features: blob.features } },
  )
}

function parseEntry(view: StructView, index: number, chunkSize: number): BlobEntry {
  const O = F.BLOB_OFF
  const blobId = view.text(O.blobId, 64)
  view.check(
    isBlobId(blobId) || blobId === F.PLACEHOLDER_BLOB_ID,
    O.blobId,
    'blob_id',
    blobId,
    '64 lower-case hex digits are expected',
  )
  const position = view.u32(O.blobIndex)
  view.check(position === index, O.blobIndex, 'blob_index', position, `its place in the table is ${index}`)
  const own = parseChunkSize(view, O.chunkSize)
  view.check(own === chunkSize, O.chunkSize, 'chunk_size', own, `the superblock says ${chunkSize}`)
  const chunkCount = view.u32(O.chunkCount)
  view.check(chunkCount <= F.MAX_CHUNKS_PER_BLOB, O.chunkCount, 'chunk_count', chunkCount, 'at most 2^24')
  const features = parseFeatures(view, blobId)
  const entry = {
    index,
    blobId,
    chunkSize,
    chunkCount,
    compressor: nameOf(view, O.compressor, 'compressor', COMPRESSORS),
    digester: nameOf(view, O.digester, 'digester', DIGESTERS),
    features,
    ...parseSizes(view),
    tocSize: view.u32(O.tocSize),
    tocDigest: view.slice(O.tocDigest, F.DIGEST_SIZE),
    ciCompressor: nameOf(view, O.ciCompressor, 'ci_compressor', COMPRESSORS),
    ...parseSecrets(view, features),
  }
  checkInfoSize(view, entry)
  return entry
}

function parseFeatures(view: StructView, blobId: string): number {
  const at = F.BLOB_OFF.features
  const features = view.u32(at)
  const unknown = features & F.BLOB_FEATURES_INCOMPAT & ~F.BLOB_FEATURES_KNOWN
  if (unknown !== 0) {
    throw fault(
      'RAFS_UNSUPPORTED',
      `blob ${blobId} uses features that this release does not know: ${bitNames(unknown, F.BLOB_FEATURES)} ` +
        `(at byte ${view.at + at}); update nydus-ts, or convert the image without them`,
      { context: { field: 'features', offset: view.at + at, value: features } },
    )
  }
  const { zran, batch, encrypted, chunkInfoV2, aligned, tarfs } = F.BLOB_FEATURES
  const check = (ok: boolean, why: string): void => view.check(ok, at, 'features', features, why)
  check((features & F.BLOB_FEATURE_INTERNAL) === 0, 'bit 31 never stands on disk')
  const needsV2 = (features & (zran | batch | encrypted)) !== 0
  check(!needsV2 || (features & chunkInfoV2) !== 0, 'zran, batch and encrypted need chunk infos of version 2')
  check((features & tarfs) !== 0 || (features & aligned) !== 0, 'chunks of RAFS v6 are aligned to 4096 bytes')
  return features
}

function parseSizes(view: StructView) {
  const O = F.BLOB_OFF
  const compressedSize = view.u64(O.compressedSize, 'compressed_size')
  const uncompressedSize = view.u64(O.uncompressedSize, 'uncompressed_size')
  const ciOffset = view.u64(O.ciOffset, 'ci_offset')
  const ciCompressedSize = view.u64(O.ciCompressedSize, 'ci_compressed_size')
  const ciUncompressedSize = view.u64(O.ciUncompressedSize, 'ci_uncompressed_size')
  const limit = F.MAX_COMPRESSED_BLOB_SIZE
  view.check(compressedSize <= limit, O.compressedSize, 'compressed_size', compressedSize, 'at most 2^40')
  view.check(ciOffset <= limit, O.ciOffset, 'ci_offset', ciOffset, 'at most 2^40')
  view.check(
    uncompressedSize <= F.MAX_UNCOMPRESSED_BLOB_SIZE,
    O.uncompressedSize,
    'uncompressed_size',
    uncompressedSize,
    'at most 2^44',
  )
  return { compressedSize, uncompressedSize, ciOffset, ciCompressedSize, ciUncompressedSize }
}

/** Chunk infos, contexts of batches and of zran with their dictionaries of at most 32 KiB. */
const MAX_INFO_BYTES_PER_CHUNK = F.CHUNK_INFO_V2_SIZE + F.BATCH_CONTEXT_SIZE + 32768

function checkInfoSize(view: StructView, entry: Omit<BlobEntry, 'cipher'>): void {
  const O = F.BLOB_OFF
  const { chunkCount, ciUncompressedSize: size, ciCompressedSize: stored } = entry
  view.check(
    // An encrypted unit of less than 16 bytes grows to 18.
    stored <= size || (hasFeature(entry, 'encrypted') && stored <= 18),
    O.ciCompressedSize,
    'ci_compressed_size',
    stored,
    `not larger than ci_uncompressed_size, ${size}`,
  )
  if (hasFeature(entry, 'tarfs') || hasFeature(entry, 'chunkdictGenerated')) return
  const v2 = hasFeature(entry, 'chunkInfoV2')
  const more = hasFeature(entry, 'batch') || hasFeature(entry, 'zran') || hasFeature(entry, 'encrypted')
  const exact = chunkCount * (v2 ? F.CHUNK_INFO_V2_SIZE : F.CHUNK_INFO_V1_SIZE)
  view.check(
    more ? size >= exact && size <= chunkCount * MAX_INFO_BYTES_PER_CHUNK : size === exact,
    O.ciUncompressedSize,
    'ci_uncompressed_size',
    size,
    `${chunkCount} chunks take ${exact} bytes`,
  )
  view.check(
    chunkCount * F.BLOCK_SIZE <= entry.uncompressedSize + F.BLOCK_SIZE - 1,
    O.chunkCount,
    'chunk_count',
    chunkCount,
    `more chunks than ${entry.uncompressedSize} bytes have blocks`,
  )
}

/** An encrypted blob keeps its key where others keep the digest of their metadata blob. */
function parseSecrets(
  view: StructView,
  features: number,
): Pick<BlobEntry, 'metaDigest' | 'metaSize' | 'cipher'> {
  const O = F.BLOB_OFF
  const algorithm = view.u32(O.cipher)
  const encrypted = (features & F.BLOB_FEATURES.encrypted) !== 0
  if (algorithm === 2 || algorithm === 3) {
    throw fault(
      'RAFS_UNSUPPORTED',
      `a blob is encrypted with ${algorithm === 2 ? 'aes-256-xts' : 'aes-256-gcm'}, which no builder of RAFS writes: ` +
        'encrypt with aes-128-xts',
    )
  }
  view.check(
    algorithm === (encrypted ? 1 : 0),
    O.cipher,
    'cipher_algo',
    algorithm,
    encrypted ? 'an encrypted blob has cipher 1, aes-128-xts' : 'the blob is not marked as encrypted',
  )
  if (!encrypted) {
    return {
      metaDigest: view.slice(O.metaDigest, F.DIGEST_SIZE),
      metaSize: view.u64(O.metaSize, 'blob_meta_size'),
      cipher: undefined,
    }
  }
  const cipher = new UnitCipher(view.slice(O.metaDigest, 32), view.slice(O.metaSize, 16))
  return { metaDigest: undefined, metaSize: 0, cipher }
}

function nameOf<T extends string>(
  view: StructView,
  offset: number,
  field: string,
  ids: Readonly<Record<T, number>>,
): T {
  const id = view.u32(offset)
  for (const name in ids) if (ids[name] === id) return name
  throw view.bad(offset, field, id, `one of ${Object.keys(ids).join(', ')} is expected`)
}
