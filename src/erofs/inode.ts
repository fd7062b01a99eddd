/**
 * Inodes, compact and extended, and the data that directories and symlinks keep in the bootstrap itself (EROFS on-disk
 * format; RAFS v6 bootstrap, inodes and flat data).
 */
import type { ByteSource } from '../common/byte-source.js'
import { fault } from '../common/fault.js'
import * as F from './format.js'
import { TOO_LARGE, badField, fits, readBytes, readI64, readU16, readU32, readU64 } from './struct-view.js'
import type { Superblock } from './superblock.js'

export type InodeType = Exclude<F.FileType, 'unknown'>
export type InodeLayout = keyof typeof F.INODE_LAYOUTS

export interface Inode {
  /** The inode number that kernels show. */
  readonly nid: number
  /** Absolute offset of the inode. */
  readonly offset: number
  /** Bytes of the inode itself, 32 or 64, without xattrs. */
  readonly headerSize: number
  /** Bytes of the xattr area that follows; 0 for none. */
  readonly xattrSize: number
  readonly layout: InodeLayout
  readonly type: InodeType
  /** st_mode with the type bits. */
  readonly mode: number
  readonly nlink: number
  /** i_size in bytes. */
  readonly size: number
  /** The builder's own number: equal for the names of a hard link where each name has an inode of its own. */
  readonly ino: number
  readonly uid: number
  readonly gid: number
  /** Seconds since 1970, negative before; 0 for compact inodes, which have no time. */
  readonly mtime: number
  readonly mtimeNsec: number
  /** i_u: first data block, chunk format or device number, by type. */
  readonly u: number
}

/** File types by the upper four bits of `st_mode`. */
export const TYPE_BY_FORMAT: readonly (InodeType | undefined)[] = [
  undefined,
  'fifo',
  'charDevice',
  undefined,
  'directory',
  undefined,
  'blockDevice',
  undefined,
  'regular',
  undefined,
  'symlink',
  undefined,
  'socket',
]

const LAYOUT_BY_FORMAT: readonly (InodeLayout | undefined)[] = [
  'flatPlain',
  undefined,
  'flatInline',
  undefined,
  'chunkBased',
]

/**
 * Parsed in place, because a server does it for every request.
 * @throws RAFS_FIELD, RAFS_TRUNCATED
 */
export function parseInode(source: ByteSource, sb: Superblock, nid: number): Inode {
  const offset = sb.metaOffset + nid * F.INODE_SLOT_SIZE
  // Nearly all are extended: those at the end of the file that are not are read again.
  const whole = fits(source, offset, F.EXTENDED_INODE_SIZE)
  let bytes = readBytes(source, offset, whole ? F.EXTENDED_INODE_SIZE : F.COMPACT_INODE_SIZE, 'inode')
  const extended = (readU16(bytes, 0) & F.INODE_EXTENDED) !== 0
  if (extended && !whole) bytes = readBytes(source, offset, F.EXTENDED_INODE_SIZE, 'inode')
  const inode = extended ? parseExtended(bytes, nid, offset) : parseCompact(bytes, nid, offset)
  checkInode(source, inode)
  return inode
}

function parseCompact(bytes: Uint8Array, nid: number, offset: number): Inode {
  const O = F.COMPACT_INODE_OFF
  const mode = readU16(bytes, O.mode)
  return {
    nid,
    offset,
    headerSize: F.COMPACT_INODE_SIZE,
    layout: parseLayout(nid, offset, readU16(bytes, O.format)),
    type: parseType(nid, offset, mode),
    mode,
    xattrSize: xattrBytes(readU16(bytes, O.xattrCount)),
    nlink: readU16(bytes, O.nlink),
    size: readU32(bytes, O.size),
    u: readU32(bytes, O.u),
    ino: readU32(bytes, O.ino),
    uid: readU16(bytes, O.uid),
    gid: readU16(bytes, O.gid),
    mtime: 0,
    mtimeNsec: 0,
  }
}

function parseExtended(bytes: Uint8Array, nid: number, offset: number): Inode {
  const O = F.EXTENDED_INODE_OFF
  const mode = readU16(bytes, O.mode)
  const size = readU64(bytes, O.size)
  if (size > Number.MAX_SAFE_INTEGER) throw bad(nid, offset + O.size, 'i_size', size, TOO_LARGE)
  const mtime = readI64(bytes, O.mtime)
  if (!Number.isSafeInteger(mtime)) throw bad(nid, offset + O.mtime, 'i_mtime', mtime, TOO_LARGE)
  return {
    nid,
    offset,
    headerSize: F.EXTENDED_INODE_SIZE,
    layout: parseLayout(nid, offset, readU16(bytes, O.format)),
    type: parseType(nid, offset, mode),
    mode,
    xattrSize: xattrBytes(readU16(bytes, O.xattrCount)),
    nlink: readU32(bytes, O.nlink),
    size,
    u: readU32(bytes, O.u),
    ino: readU32(bytes, O.ino),
    uid: readU32(bytes, O.uid),
    gid: readU32(bytes, O.gid),
    mtime,
    mtimeNsec: readU32(bytes, O.mtimeNsec),
  }
}

function xattrBytes(count: number): number {
  return count === 0 ? 0 : F.XATTR_HEADER_SIZE + (count - 1) * F.XATTR_ENTRY_SIZE
}

function parseType(nid: number, offset: number, mode: number): InodeType {
  const type = TYPE_BY_FORMAT[mode >> 12]
  if (type !== undefined) return type
  throw bad(nid, offset + F.EXTENDED_INODE_OFF.mode, 'i_mode', mode, 'no file type has these bits')
}

function parseLayout(nid: number, offset: number, format: number): InodeLayout {
  const layout = LAYOUT_BY_FORMAT[format >> 1]
  if (layout !== undefined) return layout
  const why = 'layout 0, 2 or 4 in bits 1 to 3 and nothing above is expected'
  throw bad(nid, offset, 'i_format', format, why)
}

function checkInode(source: ByteSource, inode: Inode): void {
  const { type, size, nid, offset, layout, nlink } = inode
  const sizeAt = offset + F.EXTENDED_INODE_OFF.size
  if (nlink === 0) {
    const compact = inode.headerSize === F.COMPACT_INODE_SIZE
    const at = offset + (compact ? F.COMPACT_INODE_OFF.nlink : F.EXTENDED_INODE_OFF.nlink)
    throw bad(nid, at, 'i_nlink', nlink, 'a file has at least one name')
  }
  if (type === 'symlink' && size === 0) throw bad(nid, sizeAt, 'i_size', size, 'a symlink has a target')
  if (type === 'regular') {
    if (size > 0 && layout !== 'chunkBased')
      throw bad(nid, offset, 'i_format', layout, 'file data of RAFS stands in blobs, as chunks')
  } else {
    if (layout === 'chunkBased') throw bad(nid, offset, 'i_format', layout, `a ${type} has no chunks`)
    // Flat data stands in the bootstrap.
    if (size > source.sizeBytes) throw bad(nid, sizeAt, 'i_size', size, 'more than the whole bootstrap')
  }
  if (!fits(source, tailOffset(inode) - inode.xattrSize, inode.xattrSize))
    throw bad(nid, offset + 2, 'i_xattr_icount', inode.xattrSize, 'beyond the file')
}

function bad(nid: number, at: number, field: string, value: number | string, why: string): Error {
  return badField('RAFS_FIELD', `inode ${nid}`, at, field, value, why)
}

/** @throws INODE_TYPE */
export function requireType(ino: number, type: InodeType, wanted: InodeType): void {
  if (type !== wanted) throw fault('INODE_TYPE', `inode ${ino} is a ${type}, not a ${wanted}`)
}

export function isDevice(type: InodeType): boolean {
  return type === 'charDevice' || type === 'blockDevice'
}

/** Device numbers of a char or block device. */
export function deviceNumbers(inode: Pick<Inode, 'u'>): { major: number; minor: number } {
  return { major: (inode.u >>> 8) & 0xfff, minor: (inode.u & 0xff) | ((inode.u >>> 12) & 0xfff00) }
}

/** Absolute offset of what follows inode and xattrs: the inline tail or (rounded up to 8) the chunk indexes. */
export function tailOffset(inode: Inode): number {
  return inode.offset + inode.headerSize + inode.xattrSize
}

/** Number of data blocks of a directory or symlink. */
export function flatBlockCount(inode: Inode, blockSize: number): number {
  return Math.ceil(inode.size / blockSize)
}

/** Block `index` of a directory's or symlink's data; `at` is its absolute offset. @throws RAFS_TRUNCATED */
export function readFlatBlock(
  source: ByteSource,
  sb: Superblock,
  inode: Inode,
  index: number,
): { bytes: Uint8Array; at: number } {
  const last = flatBlockCount(inode, sb.blockSize) - 1
  const length = index === last ? inode.size - last * sb.blockSize : sb.blockSize
  const inline = index === last && inode.layout === 'flatInline'
  const at = inline ? tailOffset(inode) : (inode.u + index) * sb.blockSize
  return { bytes: readBytes(source, at, length, 'data block of an inode'), at }
}

/** A copy of all data of a symlink. @throws RAFS_TRUNCATED */
export function readFlatData(source: ByteSource, sb: Superblock, inode: Inode): Uint8Array {
  const count = flatBlockCount(inode, sb.blockSize)
  const data = new Uint8Array(inode.size)
  for (let index = 0; index < count; index++)
    data.set(readFlatBlock(source, sb, inode, index).bytes, index * sb.blockSize)
  return data
}
