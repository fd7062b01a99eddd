/**
 * EROFS superblock and RAFS extended superblock (EROFS on-disk format; RAFS v6 bootstrap), and the gate that refuses
 * images with features this reader does not know.
 */
import type { ByteSource } from '../common/byte-source.js'
import type { Compressor } from '../common/codec.js'
import type { Digester } from '../common/digest.js'
import { fault } from '../common/fault.js'
import * as F from './format.js'
import { bitNames, fits, readStruct, type StructView } from './struct-view.js'

export type ImageFormat = 'rafs-v6' | 'rafs-v5' | 'erofs' | 'unknown'

/** Which kind of bootstrap the bytes are, by their magic numbers alone. Never throws for what the bytes are. */
export function detectFormat(source: ByteSource): ImageFormat {
  if (source.sizeBytes >= 8) {
    const head = readStruct(source, 0, 8, 'RAFS v5 superblock')
    if (head.u32(0) === F.RAFS_V5_MAGIC && head.u32(4) === F.RAFS_V5_VERSION) return 'rafs-v5'
  }
  if (!fits(source, F.SUPERBLOCK_OFFSET, F.SUPERBLOCK_SIZE)) return 'unknown'
  const sb = readStruct(source, F.SUPERBLOCK_OFFSET, F.SUPERBLOCK_SIZE, 'EROFS superblock')
  if (sb.u32(F.SB_OFF.magic) !== F.EROFS_MAGIC) return 'unknown'
  return (sb.u32(F.SB_OFF.featureCompat) & F.COMPAT_RAFS_V6) === 0 ? 'erofs' : 'rafs-v6'
}

export interface Superblock {
  readonly blockSize: number
  readonly rootNid: number
  /** Entries of the tree with the root; each name of a hard link counts. */
  readonly inos: number
  /** Absolute offset of nid 0. */
  readonly metaOffset: number
  readonly deviceCount: number
  /** RAFS_FLAGS of the image as a whole. */
  readonly flags: number
  /** False when uid and gid of the inodes are to be replaced by the reader's own. */
  readonly explicitUidGid: boolean
  /** Of the image as a whole; blob entries are authoritative for decoding. */
  readonly compressor: Compressor
  readonly digester: Digester
  /** Size of a chunk in bytes, a power of two; the last one of a file is shorter. */
  readonly chunkSize: number
  readonly blobTable: Table
  readonly chunkTable: Table
  readonly prefetchTable: Table
}

/** Where a table is, in bytes from the start of the file. */
export interface Table {
  readonly offset: number
  readonly size: number
}

/**
 * @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED (v5, tarfs, unknown features), RAFS_FIELD, RAFS_TRUNCATED
 */
export function parseSuperblock(source: ByteSource): Superblock {
  requireV6(source)
  const erofs = readStruct(source, F.SUPERBLOCK_OFFSET, F.SUPERBLOCK_SIZE, 'EROFS superblock')
  const rafs = readStruct(source, F.RAFS_SUPERBLOCK_OFFSET, F.RAFS_SUPERBLOCK_SIZE, 'RAFS superblock')
  checkFeatures(erofs)
  const flags = parseFlags(rafs, F.RAFS_SB_OFF.flags)
  const blockSize = 1 << erofs.u8(F.SB_OFF.blockBits)
  if (source.sizeBytes > F.MAX_BOOTSTRAP_SIZE || source.sizeBytes % blockSize !== 0) {
    throw fault(
      'RAFS_TRUNCATED',
      `a bootstrap is a multiple of ${blockSize} and at most ${F.MAX_BOOTSTRAP_SIZE} bytes long, this one is ` +
        `${source.sizeBytes}: fetch it again`,
      { context: { field: 'file size', offset: 0, value: source.sizeBytes } },
    )
  }
  const inos = erofs.u64(F.SB_OFF.inos, 'inos')
  erofs.check(inos > 0, F.SB_OFF.inos, 'inos', inos, 'a tree has at least its root')
  const metaBlock = erofs.u32(F.SB_OFF.metaBlock)
  const metaOffset = metaBlock * blockSize
  erofs.check(
    metaOffset <= source.sizeBytes,
    F.SB_OFF.metaBlock,
    'meta_blkaddr',
    metaBlock,
    'beyond the file',
  )
  return {
    blockSize,
    rootNid: erofs.u16(F.SB_OFF.rootNid),
    inos,
    metaOffset,
    deviceCount: erofs.u16(F.SB_OFF.extraDevices),
    flags,
    explicitUidGid: (flags & F.RAFS_FLAGS.explicitUidGid) !== 0,
    compressor: parseCompressor(rafs, F.RAFS_SB_OFF.flags, flags),
    digester: parseDigester(rafs, F.RAFS_SB_OFF.flags, flags),
    chunkSize: parseChunkSize(rafs, F.RAFS_SB_OFF.chunkSize),
    ...parseTables(source, rafs, erofs.u16(F.SB_OFF.extraDevices)),
  }
}

/** A chunk size of the superblock or of a blob entry. */
export function parseChunkSize(view: StructView, offset: number): number {
  const size = view.u32(offset)
  const valid = size >= F.MIN_CHUNK_SIZE && size <= F.MAX_CHUNK_SIZE && (size & (size - 1)) === 0
  view.check(valid, offset, 'chunk_size', size, 'a power of two from 4096 to 16777216 is expected')
  return size
}

function requireV6(source: ByteSource): void {
  const format = detectFormat(source)
  if (format === 'rafs-v5') {
    throw fault(
      'RAFS_UNSUPPORTED',
      'this is a RAFS v5 bootstrap, which no kernel mounts: serve it by FUSE, or convert the image to RAFS v6',
    )
  }
  if (format === 'erofs') {
    throw fault(
      'RAFS_NOT_RAFS',
      'this is a plain EROFS image, not a RAFS v6 bootstrap: feature_compat lacks bit 0x40000000',
    )
  }
  if (format === 'unknown')
    throw fault('RAFS_NOT_RAFS', 'this is not a bootstrap: it has neither RAFS v5 nor EROFS magic')
}

/** Names of the EROFS features that an ordinary EROFS image may have and a RAFS v6 bootstrap has not. */
const EROFS_INCOMPAT_NAMES = {
  zero_padding: 0x1,
  compression_configs: 0x2,
  chunked_file: 0x4,
  device_table: 0x8,
  ztailpacking: 0x10,
  fragments: 0x20,
  xattr_prefixes: 0x40,
  '48bit': 0x80,
  metabox: 0x100,
} as const

function checkFeatures(erofs: StructView): void {
  const { featureIncompat, checksum, blockBits, extSlots, xattrBlock, compression, deviceTableSlot } =
    F.SB_OFF
  const incompat = erofs.u32(featureIncompat)
  const unknown = (incompat & ~F.INCOMPAT_RAFS_V6) >>> 0
  if (unknown !== 0)
    throw unsupported('EROFS', bitNames(unknown, EROFS_INCOMPAT_NAMES), featureIncompat + erofs.at)
  erofs.check(
    incompat === F.INCOMPAT_RAFS_V6,
    featureIncompat,
    'feature_incompat',
    incompat,
    'chunked files (0x4) and the device table (0x8) belong to every RAFS v6 bootstrap',
  )
  const bits = erofs.u8(blockBits)
  if (bits === F.TARFS_BLOCK_BITS)
    throw unsupported('RAFS', 'tarfs mode (blocks of 512 bytes)', blockBits + erofs.at)
  erofs.check(bits === F.BLOCK_BITS, blockBits, 'blkszbits', bits, '12 is expected')
  erofs.check(erofs.u32(checksum) === 0, checksum, 'checksum', erofs.u32(checksum), '0 is expected')
  erofs.check(erofs.u8(extSlots) === 0, extSlots, 'ext_slots', erofs.u8(extSlots), '0 is expected')
  const shared = erofs.u32(xattrBlock)
  erofs.check(shared === 0, xattrBlock, 'xattr_blkaddr', shared, 'shared xattrs are not part of RAFS v6')
  const algorithms = erofs.u16(compression)
  erofs.check(
    algorithms === 0,
    compression,
    'compression',
    algorithms,
    'EROFS compression is not part of RAFS v6',
  )
  const slot = erofs.u16(deviceTableSlot)
  erofs.check(slot === F.DEVICE_TABLE_SLOT, deviceTableSlot, 'devt_slotoff', slot, '11 is expected')
}

/** RAFS_FLAGS of a superblock of either version. @throws RAFS_UNSUPPORTED */
export function parseFlags(rafs: StructView, offset: number): number {
  const low = rafs.u32(offset)
  const high = rafs.u32(offset + 4)
  const unknown = (low & ~F.RAFS_FLAGS_MASK) >>> 0
  const at = rafs.at + offset
  if (high !== 0) throw unsupported('RAFS', `bits 0x${high.toString(16)}00000000`, at)
  if (unknown !== 0) throw unsupported('RAFS', bitNames(unknown, {}), at)
  if ((low & F.RAFS_FLAGS.tarfsMode) !== 0) throw unsupported('RAFS', 'tarfs mode', at)
  return low
}

function unsupported(whose: string, names: string, offset: number): Error {
  return fault(
    'RAFS_UNSUPPORTED',
    `the image uses ${whose} features that this release does not know: ${names} (flags at byte ${offset}); ` +
      'update nydus-ts, or convert the image without them',
    { context: { field: `${whose} features`, offset, value: names } },
  )
}

/** @throws RAFS_FIELD */
export function parseCompressor(rafs: StructView, offset: number, flags: number): Compressor {
  const { compressionNone, compressionLz4, compressionGzip, compressionZstd } = F.RAFS_FLAGS
  switch (flags & (compressionNone | compressionLz4 | compressionGzip | compressionZstd)) {
    case compressionNone:
      return 'none'
    case compressionLz4:
      return 'lz4_block'
    case compressionGzip:
      return 'gzip'
    case compressionZstd:
      return 'zstd'
  }
  throw rafs.bad(offset, 'flags', flags, 'exactly one compression bit is expected')
}

/** @throws RAFS_FIELD */
export function parseDigester(rafs: StructView, offset: number, flags: number): Digester {
  const { hashBlake3, hashSha256 } = F.RAFS_FLAGS
  const hash = flags & (hashBlake3 | hashSha256)
  if (hash === hashBlake3) return 'blake3'
  if (hash === hashSha256) return 'sha256'
  throw rafs.bad(offset, 'flags', flags, 'exactly one hash bit is expected')
}

/** An entry of the prefetch table: one nid. */
const PREFETCH_SIZE = 4

function parseTables(
  source: ByteSource,
  rafs: StructView,
  deviceCount: number,
): Pick<Superblock, 'blobTable' | 'chunkTable' | 'prefetchTable'> {
  const O = F.RAFS_SB_OFF
  const deviceEnd = F.DEVICE_TABLE_OFFSET + deviceCount * F.DEVICE_SLOT_SIZE
  const place = (
    name: string,
    fields: [number, number],
    offset: number,
    size: number,
    unit: number,
  ): Table => {
    if (size === 0) return { offset: 0, size: 0 }
    const [offsetAt, sizeAt] = fields
    // Tables of records start at a block; the prefetch table follows the blob table.
    const align = unit === PREFETCH_SIZE ? PREFETCH_SIZE : F.BLOCK_SIZE
    rafs.check(size % unit === 0, sizeAt, `${name}_size`, size, `a multiple of ${unit} is expected`)
    const placed = offset >= F.BLOCK_SIZE && offset % align === 0 && offset >= deviceEnd
    rafs.check(
      placed,
      offsetAt,
      `${name}_offset`,
      offset,
      `a multiple of ${align} after the device table is expected`,
    )
    rafs.check(
      fits(source, offset, size),
      offsetAt,
      `${name}_offset`,
      offset,
      `its ${size} bytes end beyond the file`,
    )
    return { offset, size }
  }
  const blobSize = rafs.u32(O.blobTableSize)
  rafs.check(
    blobSize === deviceCount * F.BLOB_ENTRY_SIZE && deviceCount <= F.MAX_BLOBS,
    O.blobTableSize,
    'blob_table_size',
    blobSize,
    `one entry for each of the ${deviceCount} devices is expected, and at most ${F.MAX_BLOBS}`,
  )
  const blobOffset = rafs.u64(O.blobTableOffset, 'blob_table_offset')
  const blobTable = place(
    'blob_table',
    [O.blobTableOffset, O.blobTableSize],
    blobOffset,
    blobSize,
    F.BLOB_ENTRY_SIZE,
  )
  const chunkTable = place(
    'chunk_table',
    [O.chunkTableOffset, O.chunkTableSize],
    rafs.u64(O.chunkTableOffset, 'chunk_table_offset'),
    rafs.u64(O.chunkTableSize, 'chunk_table_size'),
    F.CHUNK_RECORD_SIZE,
  )
  const prefetchOffset = rafs.u64(O.prefetchTableOffset, 'prefetch_table_offset')
  const prefetchTable = place(
    'prefetch_table',
    [O.prefetchTableOffset, O.prefetchTableSize],
    prefetchOffset,
    // An empty image of older builders has a size without an offset: no table.
    prefetchOffset === 0 ? 0 : rafs.u32(O.prefetchTableSize),
    PREFETCH_SIZE,
  )
  checkOverlap(rafs, O.chunkTableOffset, 'chunk_table_offset', chunkTable, blobTable)
  checkOverlap(rafs, O.prefetchTableOffset, 'prefetch_table_offset', prefetchTable, blobTable)
  checkOverlap(rafs, O.prefetchTableOffset, 'prefetch_table_offset', prefetchTable, chunkTable)
  return { blobTable, chunkTable, prefetchTable }
}

/** @throws RAFS_FIELD when the two tables share bytes */
export function checkOverlap(rafs: StructView, at: number, field: string, a: Table, b: Table): void {
  const apart = a.size === 0 || b.size === 0 || a.offset >= b.offset + b.size || b.offset >= a.offset + a.size
  rafs.check(apart, at, field, a.offset, `it overlaps the table at byte ${b.offset}`)
}
