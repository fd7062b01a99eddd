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
  const view = new StructView(bytes, at, 'directory block')
  const count = entryCount(view)
  const entries: Dirent[] = []
  for (let index = 0; index < count; index++) {
    const base = index * F.DIRENT_SIZE
    const type = TYPE_NAMES[view.u8(base + F.DIRENT_OFF.fileType)]
    if (type === undefined) {
      const value = view.u8(base + F.DIRENT_OFF.fileType)
      throw view.bad(base + F.DIRENT_OFF.fileType, 'file_type', value, 'a type from 0 to 7 is expected')
    }
    entries.push({ name: entryName(view, index, count), nid: view.u64(base + F.DIRENT_OFF.nid, 'nid'), type })
  }
  return entries
}

/** The name of the block's first entry, without parsing the rest: what a search over blocks compares. */
export function firstName(bytes: Uint8Array, at: number): Uint8Array {
  const view = new StructView(bytes, at, 'directory block')
  return entryName(view, 0, entryCount(view))
}

/** The first name offset tells how many entries stand before it. */
function entryCount(view: StructView): number {
  const length = view.bytes.length
  if (length < F.DIRENT_SIZE) throw view.bad(0, 'size', length, 'an entry takes 12 bytes')
  const first = view.u16(F.DIRENT_OFF.nameOffset)
  const valid = first >= F.DIRENT_SIZE && first % F.DIRENT_SIZE === 0 && first < length
  view.check(
    valid,
    F.DIRENT_OFF.nameOffset,
    'nameoff',
    first,
    'a multiple of 12 inside the block is expected',
  )
  return first / F.DIRENT_SIZE
}

function entryName(view: StructView, index: number, count: number): Uint8Array {
  const { bytes } = view
  const field = index * F.DIRENT_SIZE + F.DIRENT_OFF.nameOffset
  const start = view.u16(field)
  const isLast = index === count - 1
  let end = isLast ? bytes.length : view.u16(field + F.DIRENT_SIZE)
  view.check(
    start >= count * F.DIRENT_SIZE && start < end && end <= bytes.length,
    field,
    'nameoff',
    start,
    `a name between byte ${count * F.DIRENT_SIZE} and byte ${bytes.length} of the block is expected`,
  )
  if (isLast) {
    const nul = bytes.indexOf(0, start)
    if (nul >= 0) end = nul
  }
  const name = bytes.subarray(start, end)
  if (name.length === 0 || name.length > F.MAX_NAME_BYTES)
    throw badField(
      'RAFS_FIELD',
      'directory entry',
      view.at + start,
      'name length',
      name.length,
      '1 to 255 is expected',
    )
  if (name.includes(0x2f) || name.includes(0)) {
    const shown = Buffer.from(name).toString('latin1')
    throw badField(
      'RAFS_FIELD',
      'directory entry',
      view.at + start,
      'name',
      shown,
      'a name has neither / nor NUL',
    )
  }
  return name
}

export function isDotName(name: Uint8Array): boolean {
  return name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e))
}
