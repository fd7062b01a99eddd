/** Inodes of a RAFS v5 bootstrap with their names, link targets and extended attributes (RAFS v5, inode). */
import type { ByteSource } from '../../common/byte-source.js'
import { MAX_NAME_BYTES, alignUp } from '../format.js'
import { isDotName } from '../directory.js'
import { TYPE_BY_FORMAT, type InodeType } from '../inode.js'
import { StructView, badField, readBytes, readStruct, requireFits } from '../struct-view.js'
import * as F from './format.js'

const EMPTY = new Uint8Array(0)
/** What Linux allows for one value. */
const MAX_XATTR_VALUE_BYTES = 65536

/**
 * One name of the tree as it stands in the file. The fixed part is parsed and checked at once, what follows it only when
 * it is asked for: a server wants names of some, link targets of others, and attributes of most.
 */
export class InodeRecord {
  /** The fixed part, for complaints about its fields and for its digest. */
  readonly view: StructView
  readonly ino: number
  readonly parent: number
  readonly type: InodeType
  /** st_mode with the type bits. */
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
  readonly #source: ByteSource
  /** Its place in the inode table. */
  readonly #index: number
  readonly #flags: number
  readonly #nameSize: number
  readonly #targetSize: number

  /** The inode at an absolute offset; `index` is its place in the inode table. @throws RAFS_FIELD, RAFS_TRUNCATED */
  constructor(source: ByteSource, offset: number, index: number) {
    const O = F.INODE_OFF
    const view = new StructView(
      readBytes(source, offset, F.INODE_SIZE, 'inode'),
      offset,
      'inode',
      'RAFS_FIELD',
      index,
    )
    this.#source = source
    this.#index = index
    this.view = view
    this.#flags = parseInodeFlags(view)
    this.mode = view.u32(O.mode)
    this.type = parseType(view, this.mode, this.#flags)
    this.ino = view.u64(O.ino, 'i_ino')
    this.parent = view.u64(O.parent, 'i_parent')
    this.uid = view.u32(O.uid)
    this.gid = view.u32(O.gid)
    this.mtimeSec = view.i64(O.mtime, 'i_mtime')
    this.mtimeNsec = view.u32(O.mtimeNsec)
    this.sizeBytes = view.u64(O.size, 'i_size')
    this.nlink = view.u32(O.nlink)
    this.childIndex = view.u32(O.childIndex)
    this.childCount = view.u32(O.childCount)
    this.rdev = view.u32(O.rdev)
    this.#nameSize = view.u16(O.nameSize)
    this.#targetSize = view.u16(O.symlinkSize)
    this.#check()
  }

  /** The chunks of the file may leave holes, which read as zeros. */
  get hasHole(): boolean {
    return (this.#flags & F.INODE_FLAGS.hasHole) !== 0
  }

  get hasXattrs(): boolean {
    return (this.#flags & F.INODE_FLAGS.xattr) !== 0
  }

  /** `/` for the root. @throws RAFS_FIELD, RAFS_TRUNCATED */
  name(): Uint8Array {
    const at = this.view.at + F.INODE_SIZE
    const name = readBytes(this.#source, at, this.#nameSize, 'name')
    const index = this.#index
    if (index === F.ROOT_INO ? name.length === 1 && name[0] === SLASH : isFileName(name)) return name
    const why = index === F.ROOT_INO ? 'the root is called /' : 'no file is called so'
    throw badField('RAFS_FIELD', `name of inode ${index}`, at, 'name', latin1(name), why)
  }

  /** Of a symbolic link, else empty. @throws RAFS_FIELD, RAFS_TRUNCATED */
  target(): Uint8Array {
    if (this.#targetSize === 0) return EMPTY
    const at = this.view.at + F.INODE_SIZE + alignUp(this.#nameSize, F.ALIGNMENT)
    const target = readBytes(this.#source, at, this.#targetSize, 'link target')
    if (!target.includes(0)) return target
    throw badField(
      'RAFS_FIELD',
      `link target of inode ${this.#index}`,
      at,
      'target',
      latin1(target),
      'it has a NUL',
    )
  }

  /** Names are byte strings (`latin1`); values share memory. @throws RAFS_FIELD, RAFS_TRUNCATED */
  xattrs(): Map<string, Uint8Array> {
    return this.hasXattrs ? readXattrsV5(this.#source, this.#xattrsOffset) : new Map<string, Uint8Array>()
  }

  /** Where the records of its chunks are. @throws RAFS_FIELD, RAFS_TRUNCATED */
  chunksOffset(): number {
    const at = this.#xattrsOffset
    return this.hasXattrs ? at + xattrsSize(this.#source, at) : at
  }

  get #xattrsOffset(): number {
    const names = alignUp(this.#nameSize, F.ALIGNMENT) + alignUp(this.#targetSize, F.ALIGNMENT)
    return this.view.at + F.INODE_SIZE + names
  }

  #check(): void {
    const O = F.INODE_OFF
    const { view, type, sizeBytes, nlink, mtimeNsec, childCount } = this
    const nameSize = this.#nameSize
    const targetSize = this.#targetSize
    if (nameSize === 0 || nameSize > MAX_NAME_BYTES)
      throw view.bad(O.nameSize, 'i_name_size', nameSize, '1 to 255 is expected')
    view.check(nlink > 0, O.nlink, 'i_nlink', nlink, 'a file has at least one name')
    view.check(mtimeNsec < 1e9, O.mtimeNsec, 'i_mtime_nsec', mtimeNsec, 'less than a second is expected')
    if (type === 'symlink') {
      if (targetSize === 0 || targetSize !== sizeBytes) {
        const why = `a target of ${sizeBytes} bytes is expected`
        throw view.bad(O.symlinkSize, 'i_symlink_size', targetSize, why)
      }
    } else if (targetSize !== 0) {
      throw view.bad(O.symlinkSize, 'i_symlink_size', targetSize, `a ${type} has no target`)
    }
    if (type === 'directory' || type === 'regular') return
    if (childCount !== 0)
      throw view.bad(O.childCount, 'i_child_count', childCount, `a ${type} has no children`)
    if (type !== 'symlink' && sizeBytes !== 0)
      throw view.bad(O.size, 'i_size', sizeBytes, `a ${type} has no data`)
  }
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

function isFileName(name: Uint8Array): boolean {
  if (isDotName(name, 0, name.length)) return false
  for (const byte of name) if (byte === SLASH || byte === 0) return false
  return true
}

const SLASH = 0x2f

/** Bytes of the extended attributes with their header and the padding after them. */
function xattrsSize(source: ByteSource, offset: number): number {
  const what = 'extended attributes'
  const total = readStruct(source, offset, F.XATTRS_HEADER_SIZE, what).u64(0, 'size')
  const size = F.XATTRS_HEADER_SIZE + alignUp(total, F.ALIGNMENT)
  requireFits(source, offset, size, what)
  return size
}

/** Pairs of a length and `name NUL value`, packed. */
function readXattrsV5(source: ByteSource, offset: number): Map<string, Uint8Array> {
  const view = readStruct(source, offset, xattrsSize(source, offset), 'extended attributes')
  const end = F.XATTRS_HEADER_SIZE + view.u64(0, 'size')
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
    const name = latin1(view.bytes.subarray(start, nul))
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
  return xattrs
}

/** Bytes as a byte string. */
export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
}
