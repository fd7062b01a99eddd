/** Superblock of a RAFS v5 bootstrap, and where its tables are (Nydus on-disk format: RAFS v5). */
import type { ByteSource } from '../../common/byte-source.js'
import type { Compressor } from '../../common/codec.js'
import type { Digester } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { MAX_BOOTSTRAP_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, RAFS_FLAGS, alignUp } from '../format.js'
import { fits, readStruct, type StructView } from '../struct-view.js'
import {
  checkOverlap,
  detectFormat,
  parseCompressor,
  parseDigester,
  parseFlags,
  type Table,
} from '../superblock.js'
import * as F from './format.js'

export interface SuperblockV5 {
  readonly chunkSize: number
  /** RAFS_FLAGS. */
  readonly flags: number
  readonly compressor: Compressor
  readonly digester: Digester
  readonly explicitOwners: boolean
  /** Inodes; one with several names counts once. */
  readonly inodesCount: number
  /** Names of the tree. */
  readonly nameCount: number
  readonly inodeTable: Table
  readonly prefetchTable: Table
  readonly blobTable: Table
  readonly extendedBlobTable: Table
}

const FIELDS_SIZE = 80

/** @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED */
export function parseSuperblockV5(source: ByteSource): SuperblockV5 {
  if (detectFormat(source) !== 'rafs-v5')
    throw fault('RAFS_NOT_RAFS', 'this is not a RAFS v5 bootstrap: it lacks the magic and version of one')
  const O = F.SB_OFF
  const view = readStruct(source, 0, FIELDS_SIZE, 'RAFS v5 superblock')
  const size = view.u32(O.superblockSize)
  view.check(size === F.SUPERBLOCK_SIZE, O.superblockSize, 'sb_size', size, '8192 is expected')
  if (source.sizeBytes < F.SUPERBLOCK_SIZE || source.sizeBytes > MAX_BOOTSTRAP_SIZE) {
    throw fault(
      'RAFS_TRUNCATED',
      `a RAFS v5 bootstrap is ${F.SUPERBLOCK_SIZE} to ${MAX_BOOTSTRAP_SIZE} bytes long, this one is ` +
        `${source.sizeBytes}: fetch it again`,
      { context: { field: 'file size', offset: 0, value: source.sizeBytes } },
    )
  }
  const flags = parseFlags(view, O.flags)
  const nameCount = view.u32(O.inodeTableEntries)
  view.check(
    nameCount > 0,
    O.inodeTableEntries,
    'inode_table_entries',
    nameCount,
    'a tree has at least its root',
  )
  const inodesCount = view.u64(O.inodesCount, 'inodes_count')
  view.check(
    inodesCount > 0 && inodesCount <= nameCount,
    O.inodesCount,
    'inodes_count',
    inodesCount,
    `1 to ${nameCount}, the number of names, is expected`,
  )
  return {
    chunkSize: parseChunkSizeV5(view),
    flags,
    ...parseAlgorithms(view, flags),
    explicitOwners: (flags & RAFS_FLAGS.explicitUidGid) !== 0,
    inodesCount,
    nameCount,
    ...parseTables(source, view),
  }
}

function parseChunkSizeV5(view: StructView): number {
  const size = view.u32(F.SB_OFF.chunkSize)
  const valid = size >= MIN_CHUNK_SIZE && size <= MAX_CHUNK_SIZE && (size & (size - 1)) === 0
  view.check(
    valid,
    F.SB_OFF.chunkSize,
    'block_size',
    size,
    'a power of two from 4096 to 16777216 is expected',
  )
  return size
}

/** Images without a compression or hash bit are uncompressed and use blake3. */
function parseAlgorithms(view: StructView, flags: number): { compressor: Compressor; digester: Digester } {
  const { compressionNone, compressionLz4, compressionGzip, compressionZstd, hashBlake3, hashSha256 } =
    RAFS_FLAGS
  const compression = flags & (compressionNone | compressionLz4 | compressionGzip | compressionZstd)
  const hash = flags & (hashBlake3 | hashSha256)
  return {
    compressor: compression === 0 ? 'none' : parseCompressor(view, F.SB_OFF.flags, flags),
    digester: hash === 0 ? 'blake3' : parseDigester(view, F.SB_OFF.flags, flags),
  }
}

type Tables = Pick<SuperblockV5, 'inodeTable' | 'prefetchTable' | 'blobTable' | 'extendedBlobTable'>

function parseTables(source: ByteSource, view: StructView): Tables {
  const O = F.SB_OFF
  const place = (name: string, at: number, size: number): Table => {
    if (size === 0) return { offset: 0, size: 0 }
    const offset = view.u64(at, name)
    const aligned = offset >= F.SUPERBLOCK_SIZE && offset % F.ALIGNMENT === 0
    view.check(aligned, at, name, offset, 'a multiple of 8 after the superblock is expected')
    view.check(fits(source, offset, size), at, name, offset, `its ${size} bytes end beyond the file`)
    return { offset, size }
  }
  const tables = {
    inodeTable: place(
      'inode_table_offset',
      O.inodeTableOffset,
      alignUp(view.u32(O.inodeTableEntries) * F.INODE_TABLE_ENTRY_SIZE, F.ALIGNMENT),
    ),
    prefetchTable: place(
      'prefetch_table_offset',
      O.prefetchTableOffset,
      view.u32(O.prefetchTableEntries) * F.PREFETCH_ENTRY_SIZE,
    ),
    blobTable: place('blob_table_offset', O.blobTableOffset, view.u32(O.blobTableSize)),
    extendedBlobTable: place(
      'extended_blob_table_offset',
      O.extendedBlobTableOffset,
      view.u32(O.extendedBlobTableEntries) * F.EXTENDED_BLOB_ENTRY_SIZE,
    ),
  }
  const { inodeTable, prefetchTable, blobTable, extendedBlobTable } = tables
  checkOverlap(view, O.prefetchTableOffset, 'prefetch_table_offset', prefetchTable, inodeTable)
  checkOverlap(view, O.blobTableOffset, 'blob_table_offset', blobTable, inodeTable)
  checkOverlap(view, O.blobTableOffset, 'blob_table_offset', blobTable, prefetchTable)
  for (const other of [inodeTable, prefetchTable, blobTable])
    checkOverlap(view, O.extendedBlobTableOffset, 'extended_blob_table_offset', extendedBlobTable, other)
  return tables
}

/** Numbers of inodes to be prefetched, in order; advice: they may be of none. @throws RAFS_TRUNCATED */
export function readPrefetchTable(source: ByteSource, { prefetchTable }: SuperblockV5): number[] {
  const { offset, size } = prefetchTable
  const view = readStruct(source, offset, size, 'RAFS v5 prefetch table')
  const inos: number[] = []
  for (let at = 0; at < size; at += F.PREFETCH_ENTRY_SIZE) inos.push(view.u32(at))
  return inos
}
