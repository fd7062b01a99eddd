/**
 * Constants of the EROFS on-disk format and of the RAFS v6 bootstrap and data blob: magic numbers, struct sizes,
 * field offsets, flags. Readers and writers share them; nothing here has behaviour.
 *
 * All integers on disk are little-endian. Offsets in a `…_OFF` table are relative to the start of that struct.
 */

/** Where things are and how big they are, in bytes. */
export const SUPERBLOCK_OFFSET = 1024
export const SUPERBLOCK_SIZE = 128
export const RAFS_SUPERBLOCK_OFFSET = 1152
export const RAFS_SUPERBLOCK_SIZE = 256
export const DEVICE_TABLE_OFFSET = 1408
export const DEVICE_SLOT_SIZE = 128
export const BLOB_ENTRY_SIZE = 256
export const INODE_SLOT_SIZE = 32
export const COMPACT_INODE_SIZE = 32
export const EXTENDED_INODE_SIZE = 64
export const DIRENT_SIZE = 12
export const XATTR_HEADER_SIZE = 12
export const XATTR_ENTRY_SIZE = 4
export const CHUNK_INDEX_SIZE = 8
export const CHUNK_RECORD_SIZE = 80
export const CI_HEADER_SIZE = 4096
export const CHUNK_INFO_V1_SIZE = 16
export const CHUNK_INFO_V2_SIZE = 24
export const BATCH_CONTEXT_SIZE = 40
export const TAR_HEADER_SIZE = 512
export const TOC_ENTRY_SIZE = 128
export const DIGEST_SIZE = 32

/** Block size of everything but a tarfs image, and the alignment of chunks in the uncompressed address space. */
export const BLOCK_SIZE = 4096
export const BLOCK_BITS = 12
export const TARFS_BLOCK_BITS = 9

export const MIN_CHUNK_SIZE = 0x1000
export const MAX_CHUNK_SIZE = 0x1000000
export const DEFAULT_CHUNK_SIZE = 0x100000
export const MAX_CHUNKS_PER_BLOB = 0x1000000
/** A blob index is stored as index + 1 in 8 bits. */
export const MAX_BLOBS = 254
export const MAX_NAME_BYTES = 255
/** More names than any path that Linux opens has (PATH_MAX): a tree that is deeper is damaged. */
export const MAX_DEPTH = 2048
export const MAX_UNCOMPRESSED_BLOB_SIZE = 2 ** 44
export const MAX_COMPRESSED_BLOB_SIZE = 2 ** 40
export const MAX_BOOTSTRAP_SIZE = 0x80000000
/** Alignment of blobs when bootstrap and blobs are flattened into one disk (`mapped_blkaddr`). */
export const FLAT_DEVICE_ALIGNMENT = 0x80000

export const EROFS_MAGIC = 0xe0f5e1e2
export const RAFS_V5_MAGIC = 0x52414653
export const RAFS_V5_VERSION = 0x500

/** `feature_compat`: the bit that tells a RAFS v6 bootstrap from a plain EROFS image. */
export const COMPAT_RAFS_V6 = 0x40000000
/** `feature_incompat`: files made of chunks, and extra devices. A RAFS v6 bootstrap has exactly these two. */
export const INCOMPAT_CHUNKED_FILE = 0x4
export const INCOMPAT_DEVICE_TABLE = 0x8
export const INCOMPAT_RAFS_V6 = INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE

/** EROFS superblock at absolute 1024. */
export const SB_OFF = {
  magic: 0, // u32
  checksum: 4, // u32
  featureCompat: 8, // u32
  blockBits: 12, // u8
  extSlots: 13, // u8
  rootNid: 14, // u16
  inos: 16, // u64
  buildTime: 24, // u64
  buildTimeNsec: 32, // u32
  blocks: 36, // u32
  metaBlock: 40, // u32
  xattrBlock: 44, // u32
  uuid: 48, // 16 bytes
  volumeName: 64, // 16 bytes
  featureIncompat: 80, // u32
  compression: 84, // u16
  extraDevices: 86, // u16
  deviceTableSlot: 88, // u16
  reserved: 90, // 38 bytes
} as const

/** Value of `devt_slotoff`: the device table's offset in slots. */
export const DEVICE_TABLE_SLOT = DEVICE_TABLE_OFFSET / DEVICE_SLOT_SIZE

/** RAFS extended superblock at absolute 1152. */
export const RAFS_SB_OFF = {
  flags: 0, // u64
  blobTableOffset: 8, // u64
  blobTableSize: 16, // u32
  chunkSize: 20, // u32
  chunkTableOffset: 24, // u64
  chunkTableSize: 32, // u64
  prefetchTableOffset: 40, // u64
  prefetchTableSize: 48, // u32, bytes
} as const

/** Flags of the RAFS extended superblock; they describe the image as a whole, blob entries are authoritative. */
export const RAFS_FLAGS = {
  compressionNone: 0x1,
  compressionLz4: 0x2,
  hashBlake3: 0x4,
  hashSha256: 0x8,
  explicitUidGid: 0x10,
  hasXattr: 0x20,
  compressionGzip: 0x40,
  compressionZstd: 0x80,
  inlinedChunkDigest: 0x100,
  tarfsMode: 0x200,
  encryptionNone: 0x1000000,
  encryptionAes128Xts: 0x2000000,
} as const

/** The flag that says how the chunks of the image are compressed, and the one that says what their digests are. */
export const COMPRESSION_FLAGS = {
  none: RAFS_FLAGS.compressionNone,
  lz4_block: RAFS_FLAGS.compressionLz4,
  gzip: RAFS_FLAGS.compressionGzip,
  zstd: RAFS_FLAGS.compressionZstd,
} as const
export const HASH_FLAGS = { blake3: RAFS_FLAGS.hashBlake3, sha256: RAFS_FLAGS.hashSha256 } as const

/** Every flag a reader may meet: those above and the reserved compatible bits 26 to 31. */
export const RAFS_FLAGS_MASK = 0xff0003ff

/** One slot of the device table. Slot i belongs to blob index i and is EROFS device i + 1. */
export const DEVICE_OFF = {
  tag: 0, // 64 bytes
  blocks: 64, // u32
  mappedBlock: 68, // u32
} as const

/** One entry of the blob table. */
export const BLOB_OFF = {
  blobId: 0, // 64 bytes
  blobIndex: 64, // u32
  chunkSize: 68, // u32
  chunkCount: 72, // u32
  compressor: 76, // u32
  digester: 80, // u32
  features: 84, // u32
  compressedSize: 88, // u64
  uncompressedSize: 96, // u64
  tocSize: 104, // u32
  ciCompressor: 108, // u32
  ciOffset: 112, // u64
  ciCompressedSize: 120, // u64
  ciUncompressedSize: 128, // u64
  tocDigest: 136, // 32 bytes
  metaDigest: 168, // 32 bytes; the key of an encrypted blob
  metaSize: 200, // u64; bytes 0..7 of an encrypted blob's IV
  cipherIv: 208, // u64; bytes 8..15 of an encrypted blob's IV
  cipher: 216, // u32
} as const

/** Features of a blob. Bits below 0x10000 are incompatible: a reader refuses those it does not know. */
export const BLOB_FEATURES = {
  aligned: 0x1,
  inlinedFsMeta: 0x2,
  chunkInfoV2: 0x4,
  zran: 0x8,
  separate: 0x10,
  inlinedChunkDigest: 0x20,
  tarfs: 0x40,
  batch: 0x80,
  encrypted: 0x100,
  chunkdictGenerated: 0x200,
  separatedWithPrefetchFiles: 0x400,
  external: 0x800,
  hasTarHeader: 0x10000000,
  hasToc: 0x20000000,
  capTarToc: 0x40000000,
} as const

/** Incompatible feature bits that have a meaning. */
export const BLOB_FEATURES_KNOWN = 0x0fff
export const BLOB_FEATURES_INCOMPAT = 0xffff
/** In memory of other readers only; on disk it is an error. */
export const BLOB_FEATURE_INTERNAL = 0x80000000

/** Blob id inside an inlined bootstrap, which cannot know its own blob's digest. */
export const PLACEHOLDER_BLOB_ID = 'x'.repeat(64)

/** Bit 0 of `i_format`: the extended form. Bits 1 to 3: the layout. */
export const INODE_EXTENDED = 1
export const INODE_LAYOUTS = { flatPlain: 0, flatInline: 2, chunkBased: 4 } as const

/** Compact inode, 32 bytes. */
export const COMPACT_INODE_OFF = {
  format: 0, // u16
  xattrCount: 2, // u16
  mode: 4, // u16
  nlink: 6, // u16
  size: 8, // u32
  u: 16, // u32
  ino: 20, // u32
  uid: 24, // u16
  gid: 26, // u16
} as const

/** Extended inode, 64 bytes. */
export const EXTENDED_INODE_OFF = {
  format: 0, // u16
  xattrCount: 2, // u16
  mode: 4, // u16
  size: 8, // u64
  u: 16, // u32
  ino: 20, // u32
  uid: 24, // u32
  gid: 28, // u32
  mtime: 32, // u64
  mtimeNsec: 40, // u32
  nlink: 44, // u32
} as const

/** Directory entry. */
export const DIRENT_OFF = {
  nid: 0, // u64
  nameOffset: 8, // u16
  fileType: 10, // u8
} as const

/** `file_type` of a directory entry. */
export const FILE_TYPES = {
  unknown: 0,
  regular: 1,
  directory: 2,
  charDevice: 3,
  blockDevice: 4,
  fifo: 5,
  socket: 6,
  symlink: 7,
} as const
export type FileType = keyof typeof FILE_TYPES

/** Entry of the inline xattr area; suffix and value follow, the whole padded to 4. */
export const XATTR_OFF = {
  nameLength: 0, // u8
  nameIndex: 1, // u8
  valueSize: 2, // u16
} as const

/** Xattr name prefix by `name_index`; the two ACL names are whole and take an empty suffix. */
export const XATTR_PREFIXES = {
  1: 'user.',
  2: 'system.posix_acl_access',
  3: 'system.posix_acl_default',
  4: 'trusted.',
  6: 'security.',
} as const

/** `i_u` of a chunk-based file: `CHUNK_FORMAT_INDEXES | log2(kernel chunk size / block size)`. */
export const CHUNK_FORMAT_INDEXES = 0x20
export const CHUNK_FORMAT_BITS_MASK = 0x1f

/** Chunk index of a file: 8 bytes. */
export const CHUNK_INDEX_OFF = {
  chunkLow: 0, // u16: chunk index bits 0..15
  device: 2, // u16: low byte blob index + 1, high byte chunk index bits 16..23
  block: 4, // u32: uncompressed offset / block size
} as const

/** Record of the chunk table, 80 bytes. */
export const CHUNK_OFF = {
  digest: 0, // 32 bytes
  blobIndex: 32, // u32
  flags: 36, // u32
  compressedSize: 40, // u32
  uncompressedSize: 44, // u32
  compressedOffset: 48, // u64
  uncompressedOffset: 56, // u64
  fileOffset: 64, // u64
  index: 72, // u32
  crc32: 76, // u32
} as const

/** Flags of a chunk table record. */
export const CHUNK_FLAGS = {
  compressed: 0x1,
  hole: 0x2,
  encrypted: 0x4,
  batch: 0x8,
  hasCrc32: 0x10,
} as const

/** Header that follows the stored compression information (CI) of a blob, 4096 bytes. */
export const CI_HEADER_OFF = {
  magic: 0, // u32
  features: 4, // u32
  compressor: 8, // u32
  entries: 12, // u32
  offset: 16, // u64
  compressedSize: 24, // u64
  uncompressedSize: 32, // u64
  contextsOffset: 40, // u64, relative to the uncompressed CI
  contextsSize: 48, // u64
  contextsCount: 56, // u32
  magic2: 4092, // u32
} as const
export const CI_MAGIC = 0xb10bb10b

/** Flags of a V2 chunk info: bits 56..63 of its first word. */
export const CHUNK_INFO_FLAGS = {
  compressed: 0x1,
  zran: 0x2,
  batch: 0x4,
  encrypted: 0x8,
  hasCrc32: 0x10,
} as const

/** Batch context: 40 bytes. */
export const BATCH_CONTEXT_OFF = {
  compressedSize: 0, // u32
  uncompressedSize: 4, // u32
} as const

/** Names of a blob's sections, in tar headers and in the table of contents. */
export const SECTIONS = {
  blob: 'image.blob',
  meta: 'blob.meta',
  metaHeader: 'blob.meta.header',
  digest: 'blob.digest',
  bootstrap: 'image.boot',
  toc: 'rafs.blob.toc',
} as const

/** Entry of the table of contents, 128 bytes. */
export const TOC_OFF = {
  flags: 0, // u32
  name: 8, // 16 bytes; `blob.meta.header` fills it without a NUL
  digest: 24, // 32 bytes
  compressedOffset: 56, // u64
  compressedSize: 64, // u64
  uncompressedSize: 72, // u64
} as const
export const TOC_NAME_SIZE = 16

/** Flags of a table of contents entry: how the section is stored. */
export const TOC_FLAGS = { none: 0x1, zstd: 0x2, lz4_block: 0x4 } as const

/** Rounds up to a multiple of `alignment`, for any safe integer. */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment
}
