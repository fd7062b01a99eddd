/** The inode table of a RAFS v5 bootstrap: from an index to the inode of a name (RAFS v5, tables). */
import type { ByteSource } from '../../common/byte-source.js'
import { badField, compareBytes, fits, readBytes, readU16, readU32 } from '../struct-view.js'
import * as F from './format.js'
import { InodeRecord } from './inode.js'
import type { SuperblockV5 } from './superblock.js'

/** Reads names by their index; nothing is kept. */
export class InodeTable {
  readonly #source: ByteSource
  readonly #offset: number
  /** Indexes go from 1 to this. */
  readonly nameCount: number

  constructor(source: ByteSource, sb: SuperblockV5) {
    this.#source = source
    this.#offset = sb.inodeTable.offset
    this.nameCount = sb.nameCount
  }

  /** The name at an index from 1 on. @throws RAFS_FIELD, RAFS_TRUNCATED */
  record(index: number): InodeRecord {
    const offset = this.offsetOf(index)
    if (offset < F.SUPERBLOCK_SIZE || !fits(this.#source, offset, F.INODE_SIZE)) {
      const why = 'an offset between the superblock and the end of the file is expected'
      throw this.bad(index, offset, why)
    }
    const record = new InodeRecord(this.#source, offset, index)
    const { ino, type, nlink } = record
    // Only further names of a file have another number than their index: that of the first name.
    const isFurtherName = ino > F.ROOT_INO && ino < index && type === 'regular' && nlink > 1
    if (ino !== index && !isFurtherName)
      throw record.view.bad(F.INODE_OFF.ino, 'i_ino', ino, `${index} is expected`)
    return record
  }

  /**
   * Below zero where the name at an index comes before `name`, in place: a search looks at many.
   * @throws RAFS_FIELD, RAFS_TRUNCATED
   */
  compareName(index: number, name: Uint8Array): number {
    const offset = this.offsetOf(index)
    const size = readU16(readBytes(this.#source, offset, F.INODE_SIZE, 'inode'), F.INODE_OFF.nameSize)
    const own = readBytes(this.#source, offset + F.INODE_SIZE, size, 'name')
    return compareBytes(own, 0, own.length, name)
  }

  /** The complaint about an entry. */
  bad(index: number, value: number, why: string): Error {
    return badField('RAFS_FIELD', 'RAFS v5 inode table', this.#at(index), `entry ${index}`, value, why)
  }

  /** Where the entry says that the inode is. */
  offsetOf(index: number): number {
    if (!(index >= 1 && index <= this.nameCount))
      throw this.bad(index, index, `the image has ${this.nameCount} names`)
    const bytes = this.#source.read(this.#at(index), F.INODE_TABLE_ENTRY_SIZE)
    return readU32(bytes, 0) * F.INODE_OFFSET_UNIT
  }

  /**
   * Index of the first child of a directory; its other children follow it.
   * @throws RAFS_FIELD unless all of them are in the table, after the directory: so that no tree has a loop
   */
  firstChild({ view, childIndex, childCount, ino }: InodeRecord): number {
    const end = childIndex + childCount - 1
    if (childCount === 0 || (childIndex > ino && end <= this.nameCount)) return childIndex
    const why = `${childCount} children between index ${ino + 1} and index ${this.nameCount} are expected`
    throw view.bad(F.INODE_OFF.childIndex, 'i_child_index', childIndex, why)
  }

  #at(index: number): number {
    return this.#offset + (index - 1) * F.INODE_TABLE_ENTRY_SIZE
  }
}
