import { fault } from '../common/fault.js'
import { XATTR_ENTRY_SIZE, XATTR_HEADER_SIZE, XATTR_OFF, XATTR_PREFIXES, alignUp } from './format.js'

type Xattrs = ReadonlyMap<string, Uint8Array> | undefined

const MAX_VALUE_BYTES = 0xffff
const MAX_NAME_BYTES = 255
/** What `i_xattr_icount` can count. */
const MAX_AREA_BYTES = XATTR_HEADER_SIZE + 0xfffe * XATTR_ENTRY_SIZE

/** `name_index` and suffix of a whole name; undefined where the format has no place for the name. */
export function splitXattrName(name: string): { index: number; suffix: string } | undefined {
  for (const [index, prefix] of Object.entries(XATTR_PREFIXES)) {
    const whole = !prefix.endsWith('.')
    if (whole ? name === prefix : name.startsWith(prefix) && name.length > prefix.length) {
      return { index: Number(index), suffix: name.slice(prefix.length) }
    }
  }
  return undefined
}

/** Bytes of the inline area after the inode: 0 without attributes. */
export function xattrAreaSize(xattrs: Xattrs): number {
  if (xattrs === undefined || xattrs.size === 0) return 0
  let size = XATTR_HEADER_SIZE
  for (const [name, value] of xattrs) {
    const suffix = splitXattrName(name)?.suffix ?? ''
    size += alignUp(XATTR_ENTRY_SIZE + suffix.length + value.length, XATTR_ENTRY_SIZE)
  }
  return size
}

/** `i_xattr_icount` of an area of that size. */
export function xattrCount(areaSize: number): number {
  return areaSize === 0 ? 0 : (areaSize - XATTR_HEADER_SIZE) / XATTR_ENTRY_SIZE + 1
}

/** Writes the area at `offset`, sorted by name so that equal input gives equal bytes (rafs.md 1.9). */
export function writeXattrs(out: Buffer, offset: number, xattrs: Xattrs): void {
  if (xattrs === undefined || xattrs.size === 0) return
  let at = offset + XATTR_HEADER_SIZE
  for (const [name, value] of [...xattrs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const split = splitXattrName(name)
    if (!split) throw fault('IMAGE_INVALID', `the format has no place for the extended attribute ${name}`)
    out.writeUInt8(split.suffix.length, at + XATTR_OFF.nameLength)
    out.writeUInt8(split.index, at + XATTR_OFF.nameIndex)
    out.writeUInt16LE(value.length, at + XATTR_OFF.valueSize)
    out.write(split.suffix, at + XATTR_ENTRY_SIZE, 'latin1')
    out.set(value, at + XATTR_ENTRY_SIZE + split.suffix.length)
    at += alignUp(XATTR_ENTRY_SIZE + split.suffix.length + value.length, XATTR_ENTRY_SIZE)
  }
}

/** Why these attributes cannot be written, as the end of a sentence; undefined when they can. */
export function xattrProblem(xattrs: Xattrs): string | undefined {
  for (const [name, value] of xattrs ?? []) {
    if (name.length > MAX_NAME_BYTES)
      return `an extended attribute name of ${name.length} bytes (255 at most)`
    if (value.length > MAX_VALUE_BYTES)
      return `an extended attribute of ${value.length} bytes (65,535 at most)`
  }
  const size = xattrAreaSize(xattrs)
  return size > MAX_AREA_BYTES ? `${size} bytes of extended attributes (262,148 at most)` : undefined
}
