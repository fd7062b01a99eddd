/**
 * Directory blocks: an array of entries, then their names, sorted by raw bytes over the whole directory (EROFS on-disk
 * format, directories).
 */
import * as F from './format.js'
import { badField, StructView } from './struct-view.js'

export interface Dirent {
  readonly name: Uint8Array
  readonly nid: number
  readonly type: F.FileType
}

const TYPE_NAMES = Object.keys(F.FILE_TYPES) as F.FileType[]

/**
 * The entries of one directory block, `.` and `..` included.
 * @param at - absolute offset of the block, for complaints
 * @throws RAFS_FIELD
 */
export function parseDirectoryBlock(bytes: Uint8Array, at: number): Dirent[] {
  const entries: Dirent[] = []
  visitDirectoryBlock(bytes, at, (start, end, nid, type) => {
    entries.push({ name: bytes.subarray(start, end), nid, type })
  })
  return entries
}

/**
 * Calls `visit` for each entry of a block with the place of its name in the block: for who reads many directories and
 * makes something else than an object of each entry.
 * @throws RAFS_FIELD
 */
export function visitDirectoryBlock(
  bytes: Uint8Array,
  at: number,
  visit: (start: number, end: number, nid: number, type: F.FileType) => void,
): void {
  const view = new StructView(bytes, at, 'directory block')
  const count = entryCount(view)
  for (let index = 0; index < count; index++) {
    const base = index * F.DIRENT_SIZE
    const fileType = view.u8(base + F.DIRENT_OFF.fileType)
    const type = TYPE_NAMES[fileType]
    if (type === undefined)
      throw view.bad(base + F.DIRENT_OFF.fileType, 'file_type', fileType, 'a type from 0 to 7 is expected')
    const end = nameEnd(view, index, count)
    visit(view.u16(base + F.DIRENT_OFF.nameOffset), end, view.u64(base + F.DIRENT_OFF.nid, 'nid'), type)
  }
}

/** The name of the block's first entry, without parsing the rest: what a search over blocks compares. */
export function firstName(bytes: Uint8Array, at: number): Uint8Array {
  const view = new StructView(bytes, at, 'directory block')
  return bytes.subarray(view.u16(F.DIRENT_OFF.nameOffset), nameEnd(view, 0, entryCount(view)))
}

/** The first name offset tells how many entries stand before it. */
function entryCount(view: StructView): number {
  const length = view.bytes.length
  if (length < F.DIRENT_SIZE) throw view.bad(0, 'size', length, 'an entry takes 12 bytes')
  const first = view.u16(F.DIRENT_OFF.nameOffset)
  if (first >= F.DIRENT_SIZE && first % F.DIRENT_SIZE === 0 && first < length) return first / F.DIRENT_SIZE
  throw view.bad(F.DIRENT_OFF.nameOffset, 'nameoff', first, 'a multiple of 12 inside the block is expected')
}

/** Where the name of an entry ends, once it is known to be a name. */
function nameEnd(view: StructView, index: number, count: number): number {
  const { bytes } = view
  const field = index * F.DIRENT_SIZE + F.DIRENT_OFF.nameOffset
  const start = view.u16(field)
  const isLast = index === count - 1
  let end = isLast ? bytes.length : view.u16(field + F.DIRENT_SIZE)
  if (start < count * F.DIRENT_SIZE || start >= end || end > bytes.length)
    throw view.bad(
      field,
      'nameoff',
      start,
      `a name between byte ${count * F.DIRENT_SIZE} and byte ${bytes.length} of the block is expected`,
    )
  if (isLast) {
    const nul = bytes.indexOf(0, start)
    if (nul >= 0) end = nul
  }
  if (end === start || end - start > F.MAX_NAME_BYTES)
    throw badName(view, start, 'name length', end - start, '1 to 255 is expected')
  for (let i = start; i < end; i++) {
    if (bytes[i] === SLASH || bytes[i] === 0) {
      const shown = Buffer.from(bytes.subarray(start, end)).toString('latin1')
      throw badName(view, start, 'name', shown, 'a name has neither / nor NUL')
    }
  }
  return end
}

const SLASH = 0x2f

function badName(view: StructView, start: number, field: string, value: number | string, why: string): Error {
  return badField('RAFS_FIELD', 'directory entry', view.at + start, field, value, why)
}

export function isDotName(name: Uint8Array): boolean {
  return name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e))
}
