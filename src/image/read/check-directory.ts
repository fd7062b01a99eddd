/** The entries of a directory: their names, their order, and where `.` and `..` lead. */
import * as F from '../../erofs/format.js'
import { readU64 } from './check-chunks.js'
import { badPart } from './parts.js'

const DIRECTORY = F.FILE_TYPES.directory
const TYPE_COUNT = Object.keys(F.FILE_TYPES).length

/** Takes the blocks of one directory in their order. */
export class DirectoryCheck {
  /** Entries that are directories, without `.` and `..`. */
  directories = 0
  readonly #bytes: Buffer
  readonly #nid: number
  readonly #parent: number
  readonly #visit: (nid: number, type: number, at: number) => number
  /** 1 once `.` was met, 2 once `..` was. */
  #dots = 0
  /** The name before, in the bytes. */
  #nameStart = 0
  #nameEnd = 0

  /** @param visit - told of every other entry, and where it stands; returns the type of the inode it leads to */
  constructor(
    bytes: Buffer,
    nid: number,
    parent: number,
    visit: (nid: number, type: number, at: number) => number,
  ) {
    this.#bytes = bytes
    this.#nid = nid
    this.#parent = parent
    this.#visit = visit
  }

  /** True once both `.` and `..` were met. */
  get hasDots(): boolean {
    return this.#dots === 3
  }

  /** The next block of the directory's data. @throws RAFS_FIELD */
  checkBlock(start: number, end: number): void {
    const bytes = this.#bytes
    const first = end - start < F.DIRENT_SIZE ? 0 : bytes.readUInt16LE(start + F.DIRENT_OFF.nameOffset)
    if (first < F.DIRENT_SIZE || first % F.DIRENT_SIZE !== 0 || first >= end - start)
      throw badPart('dirent', start, 'nameoff', first, 'a multiple of 12 inside the block is expected')
    const count = first / F.DIRENT_SIZE
    for (let index = 0; index < count; index++) {
      const entry = start + index * F.DIRENT_SIZE
      const nameStart = start + bytes.readUInt16LE(entry + F.DIRENT_OFF.nameOffset)
      const isLast = index === count - 1
      let nameEnd = isLast ? end : start + bytes.readUInt16LE(entry + F.DIRENT_SIZE + F.DIRENT_OFF.nameOffset)
      if (nameStart < start + first || nameEnd <= nameStart || nameEnd > end)
        throw badPart(
          'dirent',
          entry,
          'nameoff',
          nameStart - start,
          'names follow the entries, one another, and end in the block',
        )
      nameEnd = this.#checkName(nameStart, nameEnd, isLast)
      const order = bytes.compare(bytes, this.#nameStart, this.#nameEnd, nameStart, nameEnd)
      if (this.#nameEnd > 0 && order <= 0)
        throw badPart(
          'dirent',
          entry,
          'name',
          shown(bytes, nameStart, nameEnd),
          'the names of a directory ascend',
        )
      this.#nameStart = nameStart
      this.#nameEnd = nameEnd
      this.#checkEntry(entry, nameEnd - nameStart)
    }
  }

  /** Returns the end of the name: the last one of a block ends at the first NUL. */
  #checkName(start: number, end: number, isLast: boolean): number {
    const bytes = this.#bytes
    for (let at = start; at < end; at++) {
      if (bytes[at] === 0 && isLast) {
        end = at
        break
      }
      if (bytes[at] === 0 || bytes[at] === 0x2f)
        throw badPart('dirent', start, 'name', shown(bytes, start, end), 'a name has neither / nor NUL')
    }
    if (end === start || end - start > F.MAX_NAME_BYTES)
      throw badPart('dirent', start, 'name length', end - start, '1 to 255 is expected')
    return end
  }

  #checkEntry(at: number, length: number): void {
    const bytes = this.#bytes
    const nid = readU64(bytes, at + F.DIRENT_OFF.nid)
    const type = bytes[at + F.DIRENT_OFF.fileType] ?? 0
    if (type >= TYPE_COUNT) throw badPart('dirent', at, 'file_type', type, '0 to 7 is expected')
    const dots = bytes[this.#nameStart] === 0x2e ? dotsOf(bytes, this.#nameStart, length) : 0
    if (dots === 0) {
      if (this.#visit(nid, type, at) === DIRECTORY) this.directories++
      return
    }
    this.#dots |= dots
    const expected = dots === 1 ? this.#nid : this.#parent
    if (nid !== expected)
      throw badPart('dirent', at, 'nid', nid, `${'.'.repeat(dots)} leads to inode ${expected}`)
    if (type !== 0 && type !== DIRECTORY) throw badPart('dirent', at, 'file_type', type, 'it is a directory')
  }
}

/** 1 for `.`, 2 for `..`. */
function dotsOf(bytes: Buffer, start: number, length: number): number {
  return length === 1 ? 1 : length === 2 && bytes[start + 1] === 0x2e ? 2 : 0
}

function shown(bytes: Buffer, start: number, end: number): string {
  return JSON.stringify(bytes.toString('utf8', start, Math.min(end, start + F.MAX_NAME_BYTES)))
}
