/**
 * Inodes, compact and extended, and the data that directories and symlinks keep in the bootstrap itself (EROFS on-disk
 * format; RAFS v6 bootstrap, inodes and flat data).
 */
import type { ByteSource } from '../common/byte-source.js'
import * as F from './format.js'
import { badField, fits, readBytes, readStruct, type StructView } from './struct-view.js'
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

/** File types by the type bits of `st_mode`. */
/** By the upper four bits of the mode. */
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

/** @throws RAFS_FIELD, RAFS_TRUNCATED */
export function parseInode(source: ByteSource, sb: Superblock, nid: number): Inode {
  const offset = sb.metaOffset + nid * F.INODE_SLOT_SIZE
  const what = `inode ${nid}`
  // Nearly all are extended: those at the end of the file that are not are read again.
  const whole = fits(source, offset, F.EXTENDED_INODE_SIZE)
  let view = readStruct(source, offset, whole ? F.EXTENDED_INODE_SIZE : F.COMPACT_INODE_SIZE, what)
  const format = view.u16(0)
  const extended = (format & F.INODE_EXTENDED) !== 0
  if (extended && !whole) view = readStruct(source, offset, F.EXTENDED_INODE_SIZE, what)
  const inode = extended ? parseExtended(view, nid, format) : parseCompact(view, nid, format)
  checkInode(source, view, inode)
  return inode
}

function parseCompact(view: StructView, nid: number, format: number): Inode {
  const O = F.COMPACT_INODE_OFF
  const mode = view.u16(O.mode)
  return {
    nid,
    offset: view.at,
    headerSize: F.COMPACT_INODE_SIZE,
    layout: parseLayout(view, format),
    type: parseType(view, O.mode, mode),
    mode,
    xattrSize: xattrBytes(view.u16(O.xattrCount)),
    nlink: view.u16(O.nlink),
    size: view.u32(O.size),
    u: view.u32(O.u),
    ino: view.u32(O.ino),
    uid: view.u16(O.uid),
    gid: view.u16(O.gid),
    mtime: 0,
    mtimeNsec: 0,
  }
}

function parseExtended(view: StructView, nid: number, format: number): Inode {
  const O = F.EXTENDED_INODE_OFF
  const mode = view.u16(O.mode)
  return {
    nid,
    offset: view.at,
    headerSize: F.EXTENDED_INODE_SIZE,
    layout: parseLayout(view, format),
    type: parseType(view, O.mode, mode),
    mode,
    xattrSize: xattrBytes(view.u16(O.xattrCount)),
    nlink: view.u32(O.nlink),
    size: view.u64(O.size, 'i_size'),
    u: view.u32(O.u),
    ino: view.u32(O.ino),
    uid: view.u32(O.uid),
    gid: view.u32(O.gid),
    mtime: view.i64(O.mtime, 'i_mtime'),
    mtimeNsec: view.u32(O.mtimeNsec),
  }
}

function xattrBytes(count: number): number {
  return count === 0 ? 0 : F.XATTR_HEADER_SIZE + (count - 1) * F.XATTR_ENTRY_SIZE
}

function parseType(view: StructView, offset: number, mode: number): InodeType {
  const type = TYPE_BY_FORMAT[mode >> 12]
  if (type === undefined) throw view.bad(offset, 'i_mode', mode, 'no file type has these bits')
  return type
}

function parseLayout(view: StructView, format: number): InodeLayout {
  const layout = LAYOUT_BY_FORMAT[format >> 1]
  if (layout !== undefined) return layout
  throw view.bad(0, 'i_format', format, 'layout 0, 2 or 4 in bits 1 to 3 and nothing above is expected')
}

function checkInode(source: ByteSource, view: StructView, inode: Inode): void {
  const { type, size, nid, layout } = inode
  const sizeAt = F.EXTENDED_INODE_OFF.size
  const compact = inode.headerSize === F.COMPACT_INODE_SIZE
  const nlinkAt = compact ? F.COMPACT_INODE_OFF.nlink : F.EXTENDED_INODE_OFF.nlink
  view.check(inode.nlink > 0, nlinkAt, 'i_nlink', inode.nlink, 'a file has at least one name')
  view.check(type !== 'symlink' || size > 0, sizeAt, 'i_size', size, 'a symlink has a target')
  if (type === 'regular') {
    const empty = size === 0 || layout === 'chunkBased'
    view.check(empty, 0, 'i_format', layout, 'file data of RAFS stands in blobs, as chunks')
  } else {
    view.check(layout !== 'chunkBased', 0, 'i_format', layout, `a ${type} has no chunks`)
    // Flat data stands in the bootstrap.
    view.check(size <= source.sizeBytes, sizeAt, 'i_size', size, 'more than the whole bootstrap')
  }
  const tail = inode.offset + inode.headerSize
  if (!fits(source, tail, inode.xattrSize))
    throw badField(
      'RAFS_FIELD',
      `inode ${nid}`,
      inode.offset + 2,
      'i_xattr_icount',
      inode.xattrSize,
      'beyond the file',
    )
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
  return { bytes: readBytes(source, at, length, `data block ${index} of inode ${inode.nid}`), at }
}

/** All data of a symlink. @throws RAFS_TRUNCATED */
export function readFlatData(source: ByteSource, sb: Superblock, inode: Inode): Uint8Array {
  const count = flatBlockCount(inode, sb.blockSize)
  const blocks: Uint8Array[] = []
  for (let index = 0; index < count; index++) blocks.push(readFlatBlock(source, sb, inode, index).bytes)
  return Buffer.concat(blocks)
}
