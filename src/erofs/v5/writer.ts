import { fault } from '../../common/fault.js'
import {
  COMPRESSION_FLAGS,
  HASH_FLAGS,
  MAX_BOOTSTRAP_SIZE,
  RAFS_FLAGS,
  RAFS_V5_MAGIC,
  RAFS_V5_VERSION,
  alignUp,
} from '../format.js'
import type { DirectoryInode, ImageBlob } from '../image-tree.js'
import type { BootstrapOptions, EncodedBootstrap } from '../writer.js'
import { writeU64 } from '../write-u64.js'
import * as F from './format.js'
import { writeInodeV5 } from './writer-inode.js'
import { layoutImageV5, type LayoutV5 } from './writer-layout.js'

/**
 * A RAFS v5 bootstrap (Nydus on-disk format: RAFS v5) of the tree, with the digest of every inode.
 * Equal trees give equal bytes. @throws IMAGE_TOO_LARGE, IMAGE_INVALID
 */
export function encodeBootstrapV5(root: DirectoryInode, options: BootstrapOptions): EncodedBootstrap {
  const layout = layoutImageV5(root)
  const { blobs, names } = layout
  const prefetch = options.prefetch ?? []
  const tables = placeTables(names.length, prefetch.length, blobs)
  const sizeBytes = tables.end + layout.sizeBytes
  if (sizeBytes >= MAX_BOOTSTRAP_SIZE)
    throw fault('IMAGE_TOO_LARGE', `the image's metadata would take ${sizeBytes} bytes, 2 GiB is the limit`)

  const out = Buffer.alloc(sizeBytes)
  writeSuperblock(out, layout, options, tables)
  names.forEach(({ offset }, i) => {
    const unit = (tables.end + offset) / F.INODE_OFFSET_UNIT
    out.writeUInt32LE(unit, tables.inode + i * F.INODE_TABLE_ENTRY_SIZE)
  })
  prefetch.forEach((inode, i) => {
    out.writeUInt32LE(layout.inos.get(inode) ?? 0, tables.prefetch + i * F.PREFETCH_ENTRY_SIZE)
  })
  writeBlobs(out, tables, blobs)
  const blobIndexes = new Map(blobs.map((blob, index) => [blob, index]))
  const { chunkSize, digester } = options
  const context = { out, base: tables.end, layout, blobIndexes, chunkSize, digester }
  // Children have greater indexes than their directory, whose digest is made from theirs.
  for (let index = names.length; index >= 1; index--) {
    const name = names[index - 1]
    if (name) writeInodeV5(context, name)
  }
  return { bytes: out, blobs }
}

interface TablePlaces {
  readonly inode: number
  readonly prefetch: number
  readonly blob: number
  readonly blobSize: number
  readonly extended: number
  /** Where the inodes begin. */
  readonly end: number
}

function placeTables(nameCount: number, prefetchCount: number, blobs: readonly ImageBlob[]): TablePlaces {
  const inode = F.SUPERBLOCK_SIZE
  const prefetch = inode + alignUp(nameCount * F.INODE_TABLE_ENTRY_SIZE, F.ALIGNMENT)
  const blob = prefetch + alignUp(prefetchCount * F.PREFETCH_ENTRY_SIZE, F.ALIGNMENT)
  // Between two entries stands a NUL.
  const idBytes = blobs.reduce((sum, { id }) => sum + F.BLOB_PREFETCH_SIZE + id.length + 1, 0)
  const blobSize = alignUp(Math.max(0, idBytes - 1), F.ALIGNMENT)
  const extended = blob + blobSize
  return {
    inode,
    prefetch,
    blob,
    blobSize,
    extended,
    end: extended + blobs.length * F.EXTENDED_BLOB_ENTRY_SIZE,
  }
}

function writeSuperblock(
  out: Buffer,
  layout: LayoutV5,
  options: BootstrapOptions,
  tables: TablePlaces,
): void {
  const O = F.SB_OFF
  out.writeUInt32LE(RAFS_V5_MAGIC, O.magic)
  out.writeUInt32LE(RAFS_V5_VERSION, O.version)
  out.writeUInt32LE(F.SUPERBLOCK_SIZE, O.superblockSize)
  out.writeUInt32LE(options.chunkSize, O.chunkSize)
  out.writeUInt32LE(rafsFlags(layout, options), O.flags)
  writeU64(out, O.inodesCount, layout.inodeCount)
  writeU64(out, O.inodeTableOffset, tables.inode)
  writeU64(out, O.prefetchTableOffset, tables.prefetch)
  writeU64(out, O.blobTableOffset, tables.blob)
  out.writeUInt32LE(layout.names.length, O.inodeTableEntries)
  out.writeUInt32LE(options.prefetch?.length ?? 0, O.prefetchTableEntries)
  out.writeUInt32LE(tables.blobSize, O.blobTableSize)
  out.writeUInt32LE(layout.blobs.length, O.extendedBlobTableEntries)
  writeU64(out, O.extendedBlobTableOffset, tables.extended)
}

function rafsFlags(layout: LayoutV5, options: BootstrapOptions): number {
  const hasXattr = layout.names.some(({ inode }) => (inode.xattrs?.size ?? 0) > 0)
  return (
    COMPRESSION_FLAGS[options.compressor] |
    HASH_FLAGS[options.digester] |
    (options.explicitOwners === false ? 0 : RAFS_FLAGS.explicitUidGid) |
    (hasXattr ? RAFS_FLAGS.hasXattr : 0)
  )
}

/** The ids stand one after the other in the blob table, what is known of each blob in the extended one. */
function writeBlobs(out: Buffer, tables: TablePlaces, blobs: readonly ImageBlob[]): void {
  let at = tables.blob
  blobs.forEach((blob, index) => {
    out.writeUInt32LE(Math.min(blob.prefetchSize ?? 0, 0xffffffff), at + F.BLOB_PREFETCH_OFF.size)
    out.write(blob.id, at + F.BLOB_PREFETCH_SIZE, 'latin1')
    at += F.BLOB_PREFETCH_SIZE + blob.id.length + 1
    const entry = tables.extended + index * F.EXTENDED_BLOB_ENTRY_SIZE
    const O = F.EXTENDED_BLOB_OFF
    out.writeUInt32LE(blob.chunkCount, entry + O.chunkCount)
    out.writeUInt32LE(blob.features, entry + O.features)
    writeU64(out, entry + O.uncompressedSize, blob.uncompressedSize)
    writeU64(out, entry + O.compressedSize, blob.compressedSize)
  })
}
