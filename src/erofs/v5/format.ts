/**
 * Constants of the RAFS v5 bootstrap (Nydus on-disk format: RAFS v5): struct sizes, field offsets, flags. What it shares
 * with v6 (RAFS_FLAGS, CHUNK_OFF, CHUNK_FLAGS, BLOB_FEATURES) stands in `../format.ts`.
 *
 * The file is superblock, inode table, prefetch table, blob table, extended blob table, inodes; all little-endian, each
 * part aligned to 8 bytes.
 */

export const SUPERBLOCK_SIZE = 8192
/** An entry of the inode table: the inode's offset in units of 8 bytes. */
export const INODE_TABLE_ENTRY_SIZE = 4
export const INODE_OFFSET_UNIT = 8
export const PREFETCH_ENTRY_SIZE = 4
/** Prefetch offset and size of a blob (u32 each), which stand before its id. */
export const BLOB_PREFETCH_SIZE = 8
export const BLOB_PREFETCH_OFF = { offset: 0, size: 4 } as const
export const EXTENDED_BLOB_ENTRY_SIZE = 64
export const INODE_SIZE = 128
export const ALIGNMENT = 8
/** Length of the pairs of extended attributes, before them. */
export const XATTRS_HEADER_SIZE = 8
/** Length of one pair, before it. */
export const XATTR_PAIR_HEADER_SIZE = 4

export const ROOT_INO = 1
export const ROOT_NAME = '/'

export const SB_OFF = {
  magic: 0, // u32
  version: 4, // u32
  superblockSize: 8, // u32
  chunkSize: 12, // u32, called block size
  flags: 16, // u64, RAFS_FLAGS
  inodesCount: 24, // u64, hard links once
  inodeTableOffset: 32, // u64
  prefetchTableOffset: 40, // u64
  blobTableOffset: 48, // u64
  inodeTableEntries: 56, // u32, names
  prefetchTableEntries: 60, // u32
  blobTableSize: 64, // u32, bytes
  extendedBlobTableEntries: 68, // u32
  extendedBlobTableOffset: 72, // u64
} as const

/** Entry of the extended blob table. */
export const EXTENDED_BLOB_OFF = {
  chunkCount: 0, // u32
  features: 4, // u32, BLOB_FEATURES
  uncompressedSize: 8, // u64
  compressedSize: 16, // u64
} as const

/** Inode; name, symbolic link target, extended attributes and chunk records follow, each aligned to 8 bytes. */
export const INODE_OFF = {
  digest: 0, // 32 bytes
  parent: 32, // u64
  ino: 40, // u64
  uid: 48, // u32
  gid: 52, // u32
  projid: 56, // u32
  mode: 60, // u32
  size: 64, // u64
  blocks: 72, // u64, of 512 bytes
  flags: 80, // u64
  nlink: 88, // u32
  childIndex: 92, // u32
  childCount: 96, // u32, of a regular file: its chunks
  nameSize: 100, // u16
  symlinkSize: 102, // u16
  rdev: 104, // u32
  mtimeNsec: 108, // u32
  mtime: 112, // u64, by convention signed
} as const

export const INODE_FLAGS = { symlink: 0x1, hardlink: 0x2, xattr: 0x4, hasHole: 0x8 } as const
export const INODE_FLAGS_KNOWN = 0xf

/** Device number of what is no device. */
export const NO_RDEV = 0xffffffff
