/** Inodes of a RAFS v5 bootstrap with their names, link targets and extended attributes (RAFS v5, inode). */
import type { ByteSource } from '../../common/byte-source.js'
import { MAX_NAME_BYTES, alignUp } from '../format.js'
import { TYPE_BY_FORMAT, type InodeType } from '../inode.js'
import { readStruct, type StructView } from '../struct-view.js'
import * as F from './format.js'

/** One name of the tree as it stands in the file. */
export interface InodeRecord {
  /** The fixed part, for complaints about its fields and for its digest. */
  readonly view: StructView
  readonly ino: number
  readonly parent: number
  /** Bytes as `latin1`; `/` for the root. */
  readonly name: string
  readonly type: InodeType
  /** Permission, set-id and sticky bits. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly mtimeSec: number
  readonly mtimeNsec: number
  readonly sizeBytes: number
  readonly nlink: number
  /** Of a directory: index of its first child. */
  readonly childIndex: number
  /** Of a directory its children, of a regular file its chunks. */
  readonly childCount: number
  readonly rdev: number
  /** The chunks of the file may leave holes, which read as zeros. */
  readonly hasHole: boolean
  /** Empty unless it is a symbolic link. */
  readonly target: Uint8Array
  readonly xattrs: ReadonlyMap<string, Uint8Array> | undefined
  /** Bytes up to the chunk records; these stand at `view.at + length`. */
  readonly length: number
}

const EMPTY = new Uint8Array(0)
/** What Linux allows for one value. */
const MAX_XATTR_VALUE_BYTES = 65536

/** The inode at an absolute offset; `index` is its place in the inode table. @throws RAFS_FIELD, RAFS_TRUNCATED */
export function readInodeRecord(source: ByteSource, offset: number, index: number): InodeRecord {
  const O = F.INODE_OFF
  const view = readStruct(source, offset, F.INODE_SIZE, `inode ${index}`)
  const flags = parseInodeFlags(view)
  const mode = view.u32(O.mode)
  const type = parseType(view, mode, flags)
  const nameSize = view.u16(O.nameSize)
  view.check(
    nameSize > 0 && nameSize <= MAX_NAME_BYTES,
    O.nameSize,
    'i_name_size',
    nameSize,
    '1 to 255 is expected',
  )
  const nameBytes = alignUp(nameSize, F.ALIGNMENT)
  const targetSize = view.u16(O.symlinkSize)
  const text = readStruct(
    source,
    offset + F.INODE_SIZE,
    nameBytes + alignUp(targetSize, F.ALIGNMENT),
    'name and link target',
  )
  let length = F.INODE_SIZE + text.bytes.length
  let xattrs: Map<string, Uint8Array> | undefined
  if ((flags & F.INODE_FLAGS.xattr) !== 0) {
    const read = readXattrsV5(source, offset + length)
    xattrs = read.xattrs
    length += read.size
  }
  const record: InodeRecord = {
    view,
    ino: view.u64(O.ino, 'i_ino'),
    parent: view.u64(O.parent, 'i_parent'),
    name: latin1(text.bytes, 0, nameSize),
    type,
    mode: mode & 0o7777,
    uid: view.u32(O.uid),
    gid: view.u32(O.gid),
    mtimeSec: view.i64(O.mtime, 'i_mtime'),
    mtimeNsec: view.u32(O.mtimeNsec),
    sizeBytes: view.u64(O.size, 'i_size'),
    nlink: view.u32(O.nlink),
    childIndex: view.u32(O.childIndex),
    childCount: view.u32(O.childCount),
    rdev: view.u32(O.rdev),
    hasHole: (flags & F.INODE_FLAGS.hasHole) !== 0,
    target: targetSize === 0 ? EMPTY : text.slice(nameBytes, targetSize),
    xattrs,
    length,
  }
  checkName(text, record.name, index)
  checkFields(record)
  return record
}

function parseInodeFlags(view: StructView): number {
  const at = F.INODE_OFF.flags
  const flags = view.u32(at)
  const known = (flags & ~F.INODE_FLAGS_KNOWN) === 0 && view.u32(at + 4) === 0
  view.check(known, at, 'i_flags', flags, 'nothing but bits 0 to 3 is expected')
  return flags
}

function parseType(view: StructView, mode: number, flags: number): InodeType {
  const O = F.INODE_OFF
  const type = mode > 0xffff ? undefined : TYPE_BY_FORMAT[mode >> 12]
  if (type === undefined) throw view.bad(O.mode, 'i_mode', mode, 'no file type has these bits')
  const isLink = (flags & F.INODE_FLAGS.symlink) !== 0
  view.check(isLink === (type === 'symlink'), O.flags, 'i_flags', flags, 'the type in the mode differs')
  return type
}

function checkFields(record: InodeRecord): void {
  const O = F.INODE_OFF
  const { view, type, sizeBytes, nlink, mtimeNsec, childCount, target } = record
  view.check(nlink > 0, O.nlink, 'i_nlink', nlink, 'a file has at least one name')
  view.check(mtimeNsec < 1e9, O.mtimeNsec, 'i_mtime_nsec', mtimeNsec, 'less than a second is expected')
  if (type === 'symlink') {
    const valid = target.length > 0 && target.length === sizeBytes && !target.includes(0)
    if (!valid)
      throw view.bad(
        O.symlinkSize,
        'i_symlink_size',
        target.length,
        `a target of ${sizeBytes} bytes is expected`,
      )
  } else {
    view.check(target.length === 0, O.symlinkSize, 'i_symlink_size', target.length, `a ${type} has no target`)
  }
  if (type !== 'directory' && type !== 'regular')
    view.check(childCount === 0, O.childCount, 'i_child_count', childCount, `a ${type} has no children`)
  if (type !== 'directory' && type !== 'regular' && type !== 'symlink')
    view.check(sizeBytes === 0, O.size, 'i_size', sizeBytes, `a ${type} has no data`)
}

function checkName(text: StructView, name: string, index: number): void {
  const valid = index === F.ROOT_INO ? name === F.ROOT_NAME : isFileName(name)
  text.check(valid, 0, 'name', name, index === F.ROOT_INO ? 'the root is called /' : 'no file is called so')
}

function isFileName(name: string): boolean {
  return name !== '.' && name !== '..' && !name.includes('/') && !name.includes('\0')
}

/** Pairs of a length and `name NUL value`, packed. `size` counts their header and the padding after them. */
function readXattrsV5(source: ByteSource, offset: number): { xattrs: Map<string, Uint8Array>; size: number } {
  const what = 'extended attributes'
  const total = readStruct(source, offset, F.XATTRS_HEADER_SIZE, what).u64(0, 'size')
  const size = F.XATTRS_HEADER_SIZE + alignUp(total, F.ALIGNMENT)
  const view = readStruct(source, offset, size, what)
  const end = F.XATTRS_HEADER_SIZE + total
  const xattrs = new Map<string, Uint8Array>()
  for (let at = F.XATTRS_HEADER_SIZE; at < end;) {
    const start = at + F.XATTR_PAIR_HEADER_SIZE
    const length = start <= end ? view.u32(at) : 0
    view.check(
      length > 0 && start + length <= end,
      at,
      'pair length',
      length,
      `it ends beyond byte ${view.at + end}`,
    )
    const nul = view.bytes.indexOf(0, start)
    const named = nul > start && nul < start + length && nul - start <= MAX_NAME_BYTES
    view.check(named, start, 'name', nul - start, 'a name of 1 to 255 bytes with a NUL after it is expected')
    const name = latin1(view.bytes, start, nul)
    view.check(!xattrs.has(name), start, 'name', name, 'the inode has it twice')
    const value = view.slice(nul + 1, start + length - nul - 1)
    view.check(
      value.length <= MAX_XATTR_VALUE_BYTES,
      at,
      'pair length',
      length,
      'a value has 65,536 bytes at most',
    )
    xattrs.set(name, value)
    at = start + length
  }
  return { xattrs, size }
}

function latin1(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1', start, end)
}
