import type { SuperblockInfo } from '../client/api.js'
import type { ByteSource } from '../common/byte-source.js'
import {
  DEVICE_TABLE_OFFSET,
  EROFS_MAGIC,
  RAFS_V5_MAGIC,
  RAFS_V5_VERSION,
  SUPERBLOCK_SIZE,
} from '../erofs/format.js'
import { detectFormat, parseSuperblock } from '../erofs/superblock.js'
import * as V5 from '../erofs/v5/format.js'
import { parseSuperblockV5 } from '../erofs/v5/superblock.js'

const RAFS_V6_VERSION = 0x600
const PREFETCH_ENTRY_SIZE = V5.PREFETCH_ENTRY_SIZE
/** Names and attributes hold for ever. */
const TIMEOUT = { secs: 2 ** 32, nanos: 0 }

/**
 * The superblock of an image in upstream's words (nydusd.md 3.6). What a version of RAFS has not is 0.
 * @param batchSize of the mount, in bytes
 * @throws RAFS_*
 */
export function superblockInfo(source: ByteSource, batchSize: number): SuperblockInfo {
  const own = detectFormat(source) === 'rafs-v5' ? version5(source) : version6(source)
  return { ...EMPTY, batch_size: batchSize, ...own }
}

const EMPTY = {
  inode_table_entries: 0,
  inode_table_offset: 0,
  extended_blob_table_offset: 0,
  extended_blob_table_entries: 0,
  blob_device_table_count: 0,
  blob_device_table_offset: 0,
  attr_timeout: TIMEOUT,
  entry_timeout: TIMEOUT,
  is_chunk_dict: false,
  meta_blkaddr: 0,
  root_nid: 0,
  chunk_table_offset: 0,
  chunk_table_size: 0,
}

function version5(source: ByteSource) {
  const sb = parseSuperblockV5(source)
  return {
    magic: RAFS_V5_MAGIC,
    version: RAFS_V5_VERSION,
    sb_size: V5.SUPERBLOCK_SIZE,
    root_inode: V5.ROOT_INO,
    chunk_size: sb.chunkSize,
    inodes_count: sb.inodesCount,
    flags: { bits: sb.flags },
    inode_table_entries: sb.nameCount,
    inode_table_offset: sb.inodeTable.offset,
    blob_table_size: sb.blobTable.size,
    blob_table_offset: sb.blobTable.offset,
    extended_blob_table_offset: sb.extendedBlobTable.offset,
    extended_blob_table_entries: sb.extendedBlobTable.size / V5.EXTENDED_BLOB_ENTRY_SIZE,
    prefetch_table_offset: sb.prefetchTable.offset,
    prefetch_table_entries: sb.prefetchTable.size / PREFETCH_ENTRY_SIZE,
  }
}

function version6(source: ByteSource) {
  const sb = parseSuperblock(source)
  return {
    magic: EROFS_MAGIC,
    version: RAFS_V6_VERSION,
    sb_size: SUPERBLOCK_SIZE,
    root_inode: sb.rootNid,
    chunk_size: sb.chunkSize,
    inodes_count: sb.inos,
    flags: { bits: sb.flags },
    blob_table_size: sb.blobTable.size,
    blob_table_offset: sb.blobTable.offset,
    blob_device_table_count: sb.deviceCount,
    blob_device_table_offset: DEVICE_TABLE_OFFSET,
    prefetch_table_offset: sb.prefetchTable.offset,
    prefetch_table_entries: sb.prefetchTable.size / PREFETCH_ENTRY_SIZE,
    meta_blkaddr: sb.metaOffset / sb.blockSize,
    root_nid: sb.rootNid,
    chunk_table_offset: sb.chunkTable.offset,
    chunk_table_size: sb.chunkTable.size,
  }
}
