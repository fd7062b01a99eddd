/** The inodes of a RAFS v6 bootstrap, by number (RAFS v6 bootstrap; EROFS on-disk format). */
import type { ByteSource } from '../common/byte-source.js'
import { Bootstrap } from './bootstrap.js'
import { chunksInRange } from './chunk-index.js'
import { isDotName, visitDirectoryBlock } from './directory.js'
import { addExtent } from './file-extents.js'
import { DIRENT_SIZE, type FileType, RAFS_FLAGS } from './format.js'
import type { EntryVisitor, FileExtent, InodeAttributes, InodeReader } from './inode-reader.js'
import {
  deviceNumbers,
  flatBlockCount,
  isDevice,
  type Inode,
  type InodeType,
  readFlatBlock,
  requireType,
} from './inode.js'
import { badField } from './struct-view.js'

const DOT_DOT = Buffer.from('..')
const NO_XATTRS: ReadonlyMap<string, Uint8Array> = new Map()

export class InodeReaderV6 implements InodeReader {
  readonly version = 6
  readonly rootIno: number
  readonly inodeCount: number
  readonly hasXattrs: boolean
  readonly explicitOwners: boolean
  readonly #source: ByteSource
  readonly #bootstrap: Bootstrap

  /** @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED */
  constructor(source: ByteSource) {
    this.#source = source
    this.#bootstrap = Bootstrap.open(source)
    const { superblock, root } = this.#bootstrap
    this.rootIno = root.nid
    this.inodeCount = superblock.inos
    this.hasXattrs = (superblock.flags & RAFS_FLAGS.hasXattr) !== 0
    this.explicitOwners = superblock.explicitUidGid
  }

  attributes(ino: number): InodeAttributes {
    const inode = this.#bootstrap.inode(ino)
    const { type, mode, nlink, uid, gid, size, mtime, mtimeNsec } = inode
    const { major, minor } = isDevice(type) ? deviceNumbers(inode) : { major: 0, minor: 0 }
    return { type, mode, nlink, uid, gid, sizeBytes: size, major, minor, mtimeSec: mtime, mtimeNsec }
  }

  lookup(directory: number, name: Uint8Array): number | undefined {
    const inode = this.#inode(directory, 'directory')
    return isDotName(name, 0, name.length) ? undefined : this.#bootstrap.find(inode, name)
  }

  parentOf(directory: number): number {
    const inode = this.#inode(directory, 'directory')
    const parent = this.#bootstrap.find(inode, DOT_DOT)
    if (parent !== undefined) return parent
    throw badField('RAFS_FIELD', `inode ${directory}`, inode.offset, '..', '', 'a directory knows its parent')
  }

  /** Where to go on is told as in the file: the block's place, plus the entry's in the block. */
  readDirectory(directory: number, from: number, visit: EntryVisitor): void {
    const inode = this.#inode(directory, 'directory')
    const { superblock } = this.#bootstrap
    const { blockSize } = superblock
    const count = flatBlockCount(inode, blockSize)
    let first = Math.floor((from % blockSize) / DIRENT_SIZE)
    for (let index = Math.floor(from / blockSize); index < count; index++, first = 0) {
      const block = readFlatBlock(this.#source, superblock, inode, index)
      // Visitors may read other blocks, which the source may put in its place.
      const bytes = block.bytes.slice()
      const next = index * blockSize + DIRENT_SIZE
      const visitEntry = (start: number, end: number, nid: number, type: FileType, entry: number): boolean =>
        isDotName(bytes, start, end) ||
        visit(bytes, start, end, nid, this.#typeOf(nid, type), next + entry * DIRENT_SIZE)
      if (!visitDirectoryBlock(bytes, block.at, visitEntry, first)) return
    }
  }

  readLink(ino: number): Uint8Array {
    return this.#bootstrap.readLink(this.#inode(ino, 'symlink'))
  }

  xattrs(ino: number): ReadonlyMap<string, Uint8Array> {
    const inode = this.#bootstrap.inode(ino)
    if (inode.xattrSize === 0) return NO_XATTRS
    const named = this.#bootstrap.xattrs(inode)
    return new Map(named.map(({ name, value }) => [Buffer.from(name).toString('latin1'), value]))
  }

  extents(ino: number, offset: number, length: number): FileExtent[] {
    const inode = this.#inode(ino, 'regular')
    const { superblock, blobs } = this.#bootstrap
    const extents: FileExtent[] = []
    for (const chunk of chunksInRange(this.#source, superblock, blobs, inode, offset, length)) {
      const { fileOffset, blobIndex, uncompressedOffset } = chunk
      const start = Math.max(offset, fileOffset)
      const end = Math.min(offset + length, fileOffset + chunk.length)
      addExtent(extents, start, end - start, blobIndex, uncompressedOffset + start - fileOffset)
    }
    return extents
  }

  prefetchInos(): number[] {
    return this.#bootstrap.prefetchNids()
  }

  #inode(ino: number, type: InodeType): Inode {
    const inode = this.#bootstrap.inode(ino)
    requireType(ino, inode.type, type)
    return inode
  }

  #typeOf(nid: number, type: FileType): InodeType {
    return type === 'unknown' ? this.#bootstrap.inode(nid).type : type
  }
}
