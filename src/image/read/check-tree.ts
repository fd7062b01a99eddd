/** The tree of a RAFS v6 bootstrap: every inode, directory entry, attribute and chunk index, and what they say of one another. */
import type { BlobEntry } from '../../erofs/blob-table.js'
import * as F from '../../erofs/format.js'
import type { Superblock } from '../../erofs/superblock.js'
import { type CheckedChunks, readU64 } from './check-chunks.js'
import { DirectoryCheck } from './check-directory.js'
import { FileChunksCheck } from './check-file-chunks.js'
import { checkXattrs } from './check-xattrs.js'
import { badPart } from './parts.js'

export interface TreeFacts {
  /** Names of the tree with the root; each name of a hard link counts. */
  readonly names: number
  readonly directories: number
  /** Bytes of all regular files, hard links once. */
  readonly fileBytes: number
  /** Chunks that the files refer to, hard links once. */
  readonly chunks: number
}

const X = F.EXTENDED_INODE_OFF
const C = F.COMPACT_INODE_OFF
const DIRECTORY = F.FILE_TYPES.directory
/** File types by the type bits of a mode, shifted down. */
const TYPE_OF_MODE = new Uint8Array(16)
TYPE_OF_MODE[0o01] = F.FILE_TYPES.fifo
TYPE_OF_MODE[0o02] = F.FILE_TYPES.charDevice
TYPE_OF_MODE[0o04] = DIRECTORY
TYPE_OF_MODE[0o06] = F.FILE_TYPES.blockDevice
TYPE_OF_MODE[0o10] = F.FILE_TYPES.regular
TYPE_OF_MODE[0o12] = F.FILE_TYPES.symlink
TYPE_OF_MODE[0o14] = F.FILE_TYPES.socket
const TYPE_NAMES = Object.keys(F.FILE_TYPES)

/**
 * Works on the bytes as they are: half a million inodes make no object each. Memory: the bytes, and 5 bytes for each 32 of
 * them.
 */
export class TreeCheck {
  readonly #bytes: Buffer
  readonly #sb: Superblock
  readonly #records: CheckedChunks
  readonly #files: FileChunksCheck
  /** By nid: names that were met, and the type of the inode. */
  readonly #nameCounts: Uint32Array
  readonly #types: Uint8Array
  /** Directories whose entries are still to be read, each as nid and nid of its parent. */
  readonly #open: number[] = []
  /** Nids of files with another link count than names. */
  readonly #oddLinks: number[] = []
  #room: number
  #names = 0
  #directories = 0
  #fileBytes = 0
  #chunks = 0

  constructor(bytes: Buffer, sb: Superblock, blobs: readonly BlobEntry[], records: CheckedChunks) {
    this.#bytes = bytes
    this.#sb = sb
    this.#files = new FileChunksCheck(bytes, sb, blobs, records)
    this.#records = records
    const slots = Math.floor((bytes.length - sb.metaOffset) / F.INODE_SLOT_SIZE)
    this.#nameCounts = new Uint32Array(slots)
    this.#types = new Uint8Array(slots)
    this.#room = bytes.length
  }

  /** @throws RAFS_FIELD that names the part */
  run(): TreeFacts {
    const { rootNid, inos } = this.#sb
    this.#visit(rootNid, DIRECTORY, rootNid, F.SUPERBLOCK_OFFSET + F.SB_OFF.rootNid)
    for (let parent = this.#open.pop(); parent !== undefined; parent = this.#open.pop())
      this.#checkDirectory(this.#open.pop() ?? 0, parent)
    if (this.#names !== inos)
      throw badPart(
        'superblock',
        F.SUPERBLOCK_OFFSET + F.SB_OFF.inos,
        'inos',
        inos,
        `the tree has ${this.#names} names`,
      )
    this.#checkLinks()
    this.#records.requireAllUsed()
    return {
      names: this.#names,
      directories: this.#directories,
      fileBytes: this.#fileBytes,
      chunks: this.#chunks,
    }
  }

  /** True for the nid of an inode of the tree; after `run`. */
  has(nid: number): boolean {
    return (this.#nameCounts[nid] ?? 0) > 0
  }

  /** A name that leads to an inode. Returns the inode's type. */
  #visit(nid: number, entryType: number, parent: number, at: number): number {
    if (nid >= this.#nameCounts.length)
      throw badPart('dirent', at, 'nid', nid, 'it lies beyond the bootstrap')
    this.#names++
    const known = this.#nameCounts[nid] ?? 0
    this.#nameCounts[nid] = known + 1
    if (known === 0) this.#types[nid] = this.#checkInode(nid)
    const type = this.#types[nid] ?? 0
    if (entryType !== 0 && entryType !== type)
      throw badPart(
        'dirent',
        at,
        'file_type',
        TYPE_NAMES[entryType] ?? entryType,
        `inode ${nid} is a ${TYPE_NAMES[type]}`,
      )
    if (type === DIRECTORY) {
      if (known > 0) throw badPart('dirent', at, 'nid', nid, 'this directory has another place in the tree')
      this.#directories++
      this.#open.push(nid, parent)
    }
    return type
  }

  /** Returns the type. */
  #checkInode(nid: number): number {
    const bytes = this.#bytes
    const at = this.#offset(nid)
    const format = bytes.readUInt16LE(at)
    const extended = (format & F.INODE_EXTENDED) !== 0
    if (extended && at + F.EXTENDED_INODE_SIZE > bytes.length)
      throw badPart('inode', at, 'i_format', format, 'the inode is cut off by the end of the bootstrap')
    const layout = format >> 1
    const { flatPlain, flatInline, chunkBased } = F.INODE_LAYOUTS
    if (layout !== flatPlain && layout !== flatInline && layout !== chunkBased)
      throw badPart(
        'inode',
        at,
        'i_format',
        format,
        'layout 0, 2 or 4 in bits 1 to 3 and nothing above is expected',
      )
    const mode = bytes.readUInt16LE(at + X.mode)
    const type = TYPE_OF_MODE[mode >> 12] ?? 0
    if (type === 0) throw badPart('inode', at + X.mode, 'i_mode', mode, 'no file type has these bits')
    const size = extended ? readU64(bytes, at + X.size) : bytes.readUInt32LE(at + C.size)
    if (!Number.isSafeInteger(size))
      throw badPart('inode', at + X.size, 'i_size', size, 'no file is as large')
    if (this.#nlink(at) === 0) throw badPart('inode', at, 'i_nlink', 0, 'a file has at least one name')
    if (extended) checkReserved(bytes, at)
    const tail = at + (extended ? F.EXTENDED_INODE_SIZE : F.COMPACT_INODE_SIZE) + this.#xattrSize(at)
    if (tail > bytes.length)
      throw badPart(
        'inode',
        at + X.xattrCount,
        'i_xattr_icount',
        bytes.readUInt16LE(at + X.xattrCount),
        'beyond the bootstrap',
      )
    if (this.#xattrSize(at) > 0) checkXattrs(bytes, tail - this.#xattrSize(at), tail, nid)
    const isRegular = type === F.FILE_TYPES.regular
    const entries = isRegular ? Math.ceil(size / this.#sb.chunkSize) : 0
    this.#claim(at, tail - at + (isRegular ? entries * F.CHUNK_INDEX_SIZE : size))
    if (isRegular) this.#countFile(size, this.#files.check(nid, at, tail, size))
    else if (layout === chunkBased)
      throw badPart('inode', at, 'i_format', format, `a ${TYPE_NAMES[type]} has no chunks`)
    else if (type === F.FILE_TYPES.symlink) this.#checkSymlink(at, tail, size)
    else if (type !== DIRECTORY && size !== 0)
      throw badPart('inode', at + X.size, 'i_size', size, `a ${TYPE_NAMES[type]} has no data`)
    return type
  }

  #countFile(size: number, chunks: number): void {
    this.#fileBytes += size
    this.#chunks += chunks
  }

  #checkSymlink(at: number, tail: number, size: number): void {
    if (size === 0) throw badPart('inode', at + X.size, 'i_size', 0, 'a symlink has a target')
    const blocks = Math.ceil(size / this.#sb.blockSize)
    for (let block = 0; block < blocks; block++) {
      const { start, end } = this.#flatBlock(at, tail, size, block)
      const nul = this.#bytes.subarray(start, end).indexOf(0)
      if (nul >= 0) throw badPart('inode', start + nul, 'symlink target', 0, 'a path has no NUL')
    }
  }

  #checkDirectory(nid: number, parent: number): void {
    const at = this.#offset(nid)
    const bytes = this.#bytes
    const extended = (bytes.readUInt16LE(at) & F.INODE_EXTENDED) !== 0
    const size = extended ? readU64(bytes, at + X.size) : bytes.readUInt32LE(at + C.size)
    const tail = at + (extended ? F.EXTENDED_INODE_SIZE : F.COMPACT_INODE_SIZE) + this.#xattrSize(at)
    const visit = (child: number, type: number, entry: number): number => this.#visit(child, type, nid, entry)
    const directory = new DirectoryCheck(bytes, nid, parent, visit)
    const blocks = Math.ceil(size / this.#sb.blockSize)
    for (let block = 0; block < blocks; block++) {
      const { start, end } = this.#flatBlock(at, tail, size, block)
      directory.checkBlock(start, end)
    }
    if (!directory.hasDots)
      throw badPart('dirent', at, 'directory', nid, 'a directory has the entries . and ..')
    const links = this.#nlink(at)
    if (links !== 2 + directory.directories)
      throw badPart(
        'inode',
        at,
        'i_nlink',
        links,
        `directory ${nid} holds ${directory.directories} directories`,
      )
  }

  /** In images of 2022 each name of a file has an inode of its own, with the builder's number in common. */
  #checkLinks(): void {
    const bytes = this.#bytes
    for (let nid = 0; nid < this.#types.length; nid++) {
      const names = this.#nameCounts[nid] ?? 0
      if (names === 0 || this.#types[nid] === DIRECTORY) continue
      if (names !== this.#nlink(this.#offset(nid))) this.#oddLinks.push(nid)
    }
    const byNumber = new Map<number, number>()
    for (const nid of this.#oddLinks) {
      const number = this.#ino(nid)
      byNumber.set(number, (byNumber.get(number) ?? 0) + (this.#nameCounts[nid] ?? 0))
    }
    for (const nid of this.#oddLinks) {
      const at = this.#offset(nid)
      const number = this.#ino(nid)
      const names = number === 0 ? (this.#nameCounts[nid] ?? 0) : (byNumber.get(number) ?? 0)
      const links = this.#nlink(at)
      const extended = (bytes.readUInt16LE(at) & F.INODE_EXTENDED) !== 0
      if (links !== names)
        throw badPart(
          'inode',
          at + (extended ? X.nlink : C.nlink),
          'i_nlink',
          links,
          `inode ${nid} has ${names} names`,
        )
    }
  }

  /** Where block `index` of a directory's or symlink's data is. */
  #flatBlock(at: number, tail: number, size: number, index: number): { start: number; end: number } {
    const { blockSize } = this.#sb
    const last = Math.ceil(size / blockSize) - 1
    const length = index === last ? size - last * blockSize : blockSize
    const inline = index === last && this.#bytes.readUInt16LE(at) >> 1 === F.INODE_LAYOUTS.flatInline
    const start = inline ? tail : (this.#bytes.readUInt32LE(at + X.u) + index) * blockSize
    if (start + length > this.#bytes.length)
      throw badPart(
        'inode',
        at + X.u,
        inline ? 'i_size' : 'i_u',
        inline ? size : start / blockSize,
        'its data ends beyond the bootstrap',
      )
    return { start, end: start + length }
  }

  /** Inodes that overlap run out of the file's bytes. */
  #claim(at: number, length: number): void {
    this.#room -= length
    if (this.#room < 0)
      throw badPart(
        'inode',
        at + X.size,
        'i_size',
        length,
        'the inodes together claim more bytes than the file has',
      )
  }

  #offset(nid: number): number {
    return this.#sb.metaOffset + nid * F.INODE_SLOT_SIZE
  }

  #nlink(at: number): number {
    const extended = (this.#bytes.readUInt16LE(at) & F.INODE_EXTENDED) !== 0
    return extended ? this.#bytes.readUInt32LE(at + X.nlink) : this.#bytes.readUInt16LE(at + C.nlink)
  }

  /** The same place in both forms of inode. */
  #ino(nid: number): number {
    return this.#bytes.readUInt32LE(this.#offset(nid) + X.ino)
  }

  #xattrSize(at: number): number {
    const count = this.#bytes.readUInt16LE(at + X.xattrCount)
    return count === 0 ? 0 : F.XATTR_HEADER_SIZE + (count - 1) * F.XATTR_ENTRY_SIZE
  }
}

function checkReserved(bytes: Buffer, at: number): void {
  const nanoseconds = bytes.readUInt32LE(at + X.mtimeNsec)
  if (nanoseconds > 999_999_999)
    throw badPart('inode', at + X.mtimeNsec, 'i_mtime_nsec', nanoseconds, 'a second has 1,000,000,000')
  if (bytes.readUInt16LE(at + 6) !== 0)
    throw badPart('inode', at + 6, 'reserved', bytes.readUInt16LE(at + 6), '0 is expected')
  for (let reserved = at + 48; reserved < at + F.EXTENDED_INODE_SIZE; reserved += 4)
    if (bytes.readUInt32LE(reserved) !== 0)
      throw badPart('inode', reserved, 'reserved', bytes.readUInt32LE(reserved), '0 is expected')
}
