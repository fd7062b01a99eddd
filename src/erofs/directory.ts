/**
 * Directory blocks: an array of entries, then their names, sorted by raw bytes over the whole directory (EROFS on-disk
 * format, directories).
 */
import * as F from './format.js'
import { TOO_LARGE, badField, compareBytes, readU16, readU64 } from './struct-view.js'

export interface Dirent {
  readonly name: Uint8Array
  readonly nid: number
  readonly type: F.FileType
}

const { DIRENT_SIZE } = F
const { nameOffset: NAME_OFFSET, fileType: FILE_TYPE } = F.DIRENT_OFF
const SLASH = 0x2f
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
 * makes something else than an object of each entry. It returns false to end the reading.
 * @param from - number of the first entry to visit
 * @throws RAFS_FIELD
 */
export function visitDirectoryBlock(
  bytes: Uint8Array,
  at: number,
  visit: (start: number, end: number, nid: number, type: F.FileType, index: number) => unknown,
  from = 0,
): boolean {
  const count = entryCount(bytes, at)
  // Nearly without calls: they would take most of the time.
  for (let index = from; index < count; index++) {
    const base = index * DIRENT_SIZE
    const fileType = bytes[base + FILE_TYPE] ?? 0
    const type = TYPE_NAMES[fileType]
    if (type === undefined)
      throw bad(at + base + FILE_TYPE, 'file_type', fileType, 'a type from 0 to 7 is expected')
    const start = (bytes[base + NAME_OFFSET] ?? 0) | ((bytes[base + NAME_OFFSET + 1] ?? 0) << 8)
    const end = nameEnd(bytes, at, index, count, start)
    let i = start
    while (i < end && bytes[i] !== SLASH && bytes[i] !== 0) i++
    if (i < end || start === end || end - start > F.MAX_NAME_BYTES) throw badName(bytes, at, start, end)
    if (visit(start, end, nidOf(bytes, at, index), type, index) === false) return false
  }
  return true
}

/** The nid that a block has for a name, by binary search. @throws RAFS_FIELD */
export function findInBlock(bytes: Uint8Array, at: number, name: Uint8Array): number | undefined {
  const count = entryCount(bytes, at)
  let low = 0
  let high = count - 1
  while (low <= high) {
    const middle = (low + high) >>> 1
    const order = compareEntry(bytes, at, middle, count, name)
    if (order === 0) return nidOf(bytes, at, middle)
    if (order < 0) low = middle + 1
    else high = middle - 1
  }
  return undefined
}

/** Below zero where the block's first name comes before `name`: what a search over blocks compares. @throws RAFS_FIELD */
export function compareFirstName(bytes: Uint8Array, at: number, name: Uint8Array): number {
  return compareEntry(bytes, at, 0, entryCount(bytes, at), name)
}

function compareEntry(bytes: Uint8Array, at: number, index: number, count: number, name: Uint8Array): number {
  const start = readU16(bytes, index * DIRENT_SIZE + NAME_OFFSET)
  return compareBytes(bytes, start, nameEnd(bytes, at, index, count, start), name)
}

function nidOf(bytes: Uint8Array, at: number, index: number): number {
  const field = index * DIRENT_SIZE + F.DIRENT_OFF.nid
  const nid = readU64(bytes, field)
  if (nid <= Number.MAX_SAFE_INTEGER) return nid
  throw bad(at + field, 'nid', nid, TOO_LARGE)
}

/** The first name offset tells how many entries stand before it. */
function entryCount(bytes: Uint8Array, at: number): number {
  const { length } = bytes
  if (length < DIRENT_SIZE) throw bad(at, 'size', length, 'an entry takes 12 bytes')
  const first = readU16(bytes, NAME_OFFSET)
  if (first >= DIRENT_SIZE && first % DIRENT_SIZE === 0 && first < length) return first / DIRENT_SIZE
  const why = 'a multiple of 12 inside the block is expected'
  throw bad(at + NAME_OFFSET, 'nameoff', first, why)
}

/** Where the name of an entry ends, once it is known to lie in the block. */
function nameEnd(bytes: Uint8Array, at: number, index: number, count: number, start: number): number {
  const field = index * DIRENT_SIZE + NAME_OFFSET
  const isLast = index === count - 1
  const end = isLast
    ? bytes.length
    : (bytes[field + DIRENT_SIZE] ?? 0) | ((bytes[field + DIRENT_SIZE + 1] ?? 0) << 8)
  if (start < count * DIRENT_SIZE || start >= end || end > bytes.length) {
    const why = `a name between byte ${count * DIRENT_SIZE} and byte ${bytes.length} of the block is expected`
    throw bad(at + field, 'nameoff', start, why)
  }
  if (!isLast) return end
  const nul = bytes.indexOf(0, start)
  return nul < 0 ? end : nul
}

function badName(bytes: Uint8Array, at: number, start: number, end: number): Error {
  const complain = (field: string, value: number | string, why: string): Error =>
    badField('RAFS_FIELD', 'directory entry', at + start, field, value, why)
  if (end === start || end - start > F.MAX_NAME_BYTES)
    return complain('name length', end - start, '1 to 255 is expected')
  const shown = Buffer.from(bytes.subarray(start, end)).toString('latin1')
  return complain('name', shown, 'a name has neither / nor NUL')
}

function bad(offset: number, field: string, value: number, why: string): Error {
  return badField('RAFS_FIELD', 'directory block', offset, field, value, why)
}

/** True for `.` and `..` at bytes [start, end). */
export function isDotName(bytes: Uint8Array, start: number, end: number): boolean {
  if (bytes[start] !== DOT || end > start + 2) return false
  return end === start + 1 || bytes[start + 1] === DOT
}

const DOT = 0x2e
