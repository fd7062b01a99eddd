/** Writes the inodes of a RAFS v5 bootstrap with all that follows each (RAFS v5, inode). */
import { hexDigestOf, type Digester } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { CHUNK_FLAGS, CHUNK_OFF, CHUNK_RECORD_SIZE, DIGEST_SIZE, alignUp } from '../format.js'
import type { ImageBlob, ImageChunk, ImageInode } from '../image-tree.js'
import { TYPE_BITS, encodeRdev } from '../writer-inode.js'
import { writeU64 } from '../write-u64.js'
import * as F from './format.js'
import { xattrsSizeV5, type LayoutV5, type PlacedName } from './writer-layout.js'

export interface InodeContext {
  readonly out: Buffer
  /** Absolute offset of the first inode. */
  readonly base: number
  readonly layout: LayoutV5
  readonly blobIndexes: ReadonlyMap<ImageBlob, number>
  readonly chunkSize: number
  readonly digester: Digester
}

const SECTOR_SIZE = 512
const EMPTY = new Uint8Array(0)
/** What a directory without entries has, and the unit in which it grows. */
const DIRECTORY_UNIT = 4096
/** What an entry counts for beside its name. */
const ENTRY_SIZE = 8

/** Writes one name's inode. Its digest is made from those of its children, which must have been written. */
export function writeInodeV5(context: InodeContext, placed: PlacedName): void {
  const { out, layout } = context
  const { inode, name } = placed
  const O = F.INODE_OFF
  const at = context.base + placed.offset
  const size = sizeOf(placed, layout)
  const xattrSize = xattrsSizeV5(inode.xattrs)
  const links = layout.linkCounts.get(inode)
  writeU64(out, at + O.parent, placed.parent)
  writeU64(out, at + O.ino, placed.ino)
  out.writeUInt32LE(inode.uid, at + O.uid)
  out.writeUInt32LE(inode.gid, at + O.gid)
  out.writeUInt32LE(TYPE_BITS[inode.type] | inode.mode, at + O.mode)
  writeU64(out, at + O.size, size)
  writeU64(out, at + O.blocks, Math.ceil((size + alignUp(xattrSize, F.ALIGNMENT)) / SECTOR_SIZE))
  out.writeUInt32LE(inodeFlags(inode, links), at + O.flags)
  out.writeUInt32LE(inode.type === 'directory' ? directoryLinks(placed, layout) : (links ?? 1), at + O.nlink)
  out.writeUInt16LE(name.length, at + O.nameSize)
  out.writeUInt32LE(rdevOf(inode), at + O.rdev)
  out.writeUInt32LE(inode.mtimeNsec, at + O.mtimeNsec)
  out.writeBigInt64LE(BigInt(inode.mtimeSec), at + O.mtime)
  let end = at + F.INODE_SIZE
  out.write(name, end, 'latin1')
  end += alignUp(name.length, F.ALIGNMENT)
  if (inode.type === 'symlink') {
    out.writeUInt16LE(inode.target.length, at + O.symlinkSize)
    out.set(inode.target, end)
    end += alignUp(inode.target.length, F.ALIGNMENT)
  }
  if (xattrSize > 0) {
    writeXattrsV5(out, end, inode.xattrs ?? new Map<string, Uint8Array>(), xattrSize)
    end += F.XATTRS_HEADER_SIZE + alignUp(xattrSize, F.ALIGNMENT)
  }
  if (inode.type === 'directory') {
    out.writeUInt32LE(placed.childIndex, at + O.childIndex)
    out.writeUInt32LE(placed.childCount, at + O.childCount)
  }
  if (inode.type === 'regular') {
    out.writeUInt32LE(inode.chunks.length, at + O.childCount)
    inode.chunks.forEach((chunk, i) =>
      writeChunkV5(context, end + i * CHUNK_RECORD_SIZE, chunk, i * context.chunkSize),
    )
  }
  out.write(hexDigestOf(context.digester, digestedBytes(context, placed, end)), at + O.digest, 'hex')
}

/** What the digest of an inode is made of (Nydus on-disk format: digests). */
function digestedBytes({ out, base, layout }: InodeContext, placed: PlacedName, end: number): Uint8Array {
  const { inode, childIndex, childCount } = placed
  switch (inode.type) {
    case 'directory':
      return gatherDigests(out, childCount, i => {
        const child = layout.names[childIndex - 1 + i]
        return base + (child?.offset ?? 0) + F.INODE_OFF.digest
      })
    case 'regular':
      return gatherDigests(out, inode.chunks.length, i => end + i * CHUNK_RECORD_SIZE + CHUNK_OFF.digest)
    case 'symlink':
      return inode.target
    case 'charDevice':
    case 'blockDevice':
    case 'fifo':
    case 'socket':
      return EMPTY
  }
}

function gatherDigests(out: Buffer, count: number, offsetOf: (i: number) => number): Uint8Array {
  const digests = Buffer.allocUnsafe(count * DIGEST_SIZE)
  for (let i = 0; i < count; i++) {
    const offset = offsetOf(i)
    out.copy(digests, i * DIGEST_SIZE, offset, offset + DIGEST_SIZE)
  }
  return digests
}

function sizeOf({ inode, childIndex, childCount }: PlacedName, layout: LayoutV5): number {
  if (inode.type === 'regular') return inode.sizeBytes
  if (inode.type === 'symlink') return inode.target.length
  if (inode.type !== 'directory') return 0
  let size = 0
  for (let i = 0; i < childCount; i++)
    size += (layout.names[childIndex - 1 + i]?.name.length ?? 0) + ENTRY_SIZE
  return Math.max(DIRECTORY_UNIT, alignUp(size, DIRECTORY_UNIT))
}

function directoryLinks({ childIndex, childCount }: PlacedName, layout: LayoutV5): number {
  let links = 2
  for (let i = 0; i < childCount; i++)
    if (layout.names[childIndex - 1 + i]?.inode.type === 'directory') links++
  return links
}

/** Every byte of a file stands in a chunk, zeros too: no file has holes. */
function inodeFlags(inode: ImageInode, links: number | undefined): number {
  const { symlink, hardlink, xattr } = F.INODE_FLAGS
  return (
    (inode.type === 'symlink' ? symlink : 0) |
    (links !== undefined ? hardlink : 0) |
    (inode.xattrs && inode.xattrs.size > 0 ? xattr : 0)
  )
}

function rdevOf(inode: ImageInode): number {
  switch (inode.type) {
    case 'charDevice':
    case 'blockDevice':
      return encodeRdev(inode.major, inode.minor)
    case 'fifo':
    case 'socket':
      return 0
    case 'directory':
    case 'regular':
    case 'symlink':
      return F.NO_RDEV
  }
}

/** Sorted by name, so that equal input gives equal bytes. */
function writeXattrsV5(
  out: Buffer,
  offset: number,
  xattrs: ReadonlyMap<string, Uint8Array>,
  size: number,
): void {
  writeU64(out, offset, size)
  let at = offset + F.XATTRS_HEADER_SIZE
  for (const [name, value] of [...xattrs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const length = name.length + 1 + value.length
    out.writeUInt32LE(length, at)
    at += F.XATTR_PAIR_HEADER_SIZE
    out.write(name, at, 'latin1')
    out.set(value, at + name.length + 1)
    at += length
  }
}

function writeChunkV5(context: InodeContext, at: number, chunk: ImageChunk, fileOffset: number): void {
  const { out, blobIndexes } = context
  const { blob, crc32 } = chunk
  if (chunk.batch !== undefined || blob.cipher !== undefined)
    throw fault(
      'IMAGE_INVALID',
      `RAFS v5 has no place for the ${chunk.batch ? 'batches' : 'encryption'} of blob ${blob.id}: write version 6`,
    )
  const compressed = chunk.compressedSize === chunk.uncompressedSize ? 0 : CHUNK_FLAGS.compressed
  const checked = crc32 === undefined ? 0 : CHUNK_FLAGS.hasCrc32
  out.write(chunk.digest, at + CHUNK_OFF.digest, 'hex')
  out.writeUInt32LE(blobIndexes.get(blob) ?? 0, at + CHUNK_OFF.blobIndex)
  out.writeUInt32LE(compressed | checked, at + CHUNK_OFF.flags)
  out.writeUInt32LE(chunk.compressedSize, at + CHUNK_OFF.compressedSize)
  out.writeUInt32LE(chunk.uncompressedSize, at + CHUNK_OFF.uncompressedSize)
  writeU64(out, at + CHUNK_OFF.compressedOffset, chunk.compressedOffset)
  writeU64(out, at + CHUNK_OFF.uncompressedOffset, chunk.uncompressedOffset)
  writeU64(out, at + CHUNK_OFF.fileOffset, fileOffset)
  out.writeUInt32LE(chunk.index, at + CHUNK_OFF.index)
  out.writeUInt32LE(crc32 ?? 0, at + CHUNK_OFF.crc32)
}
