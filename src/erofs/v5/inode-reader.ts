/** The inodes of a RAFS v5 bootstrap, by number (RAFS v5). */
import type { ByteSource } from '../../common/byte-source.js'
import { addExtent } from '../file-extents.js'
import { RAFS_FLAGS } from '../format.js'
import type { EntryVisitor, FileExtent, InodeAttributes, InodeReader } from '../inode-reader.js'
import { type InodeType, deviceNumbers, isDevice, requireType } from '../inode.js'
import { chunkAddress } from './address.js'
import { parseBlobTableV5, requireIndexes } from './blob-table.js'
import { type ChunkContext, visitChunks } from './chunk-record.js'
import * as F from './format.js'
import { InodeTable } from './inode-table.js'
import type { InodeRecord } from './inode.js'
import { type SuperblockV5, parseSuperblockV5, readPrefetchTable } from './superblock.js'

export class InodeReaderV5 implements InodeReader {
  readonly version = 5
  readonly rootIno = F.ROOT_INO
  readonly inodeCount: number
  readonly hasXattrs: boolean
  readonly explicitOwners: boolean
  readonly #sb: SuperblockV5
  readonly #context: ChunkContext
  readonly #table: InodeTable

  /** @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED */
  constructor(source: ByteSource) {
    const sb = parseSuperblockV5(source)
    this.#sb = sb
    this.#context = { source, table: parseBlobTableV5(source, sb), chunkSize: sb.chunkSize }
    this.#table = new InodeTable(source, sb)
    this.inodeCount = sb.inodesCount
    this.hasXattrs = (sb.flags & RAFS_FLAGS.hasXattr) !== 0
    this.explicitOwners = sb.explicitOwners
    this.#record(F.ROOT_INO, 'directory')
  }

  attributes(ino: number): InodeAttributes {
    const { type, mode, nlink, uid, gid, sizeBytes, rdev, mtimeSec, mtimeNsec } = this.#table.record(ino)
    const { major, minor } = isDevice(type) ? deviceNumbers({ u: rdev }) : { major: 0, minor: 0 }
    return { type, mode, nlink, uid, gid, sizeBytes, major, minor, mtimeSec, mtimeNsec }
  }

  lookup(directory: number, name: Uint8Array): number | undefined {
    const record = this.#record(directory, 'directory')
    let low = this.#table.firstChild(record)
    let high = low + record.childCount - 1
    while (low <= high) {
      const middle = Math.floor((low + high) / 2)
      const order = this.#table.compareName(middle, name)
      if (order === 0) return this.#child(middle, directory).ino
      if (order < 0) low = middle + 1
      else high = middle - 1
    }
    return undefined
  }

  parentOf(directory: number): number {
    const { ino, parent } = this.#record(directory, 'directory')
    return ino === F.ROOT_INO ? ino : parent
  }

  /** Where to go on is told as the number of entries that were read. */
  readDirectory(directory: number, from: number, visit: EntryVisitor): void {
    const record = this.#record(directory, 'directory')
    const first = this.#table.firstChild(record)
    for (let place = from; place < record.childCount; place++) {
      const child = this.#child(first + place, directory)
      // Visitors may read other inodes, which the source may put in its place.
      const name = child.name().slice()
      if (!visit(name, 0, name.length, child.ino, child.type, place + 1)) return
    }
  }

  readLink(ino: number): Uint8Array {
    return this.#record(ino, 'symlink').target().slice()
  }

  xattrs(ino: number): ReadonlyMap<string, Uint8Array> {
    return this.#table.record(ino).xattrs()
  }

  extents(ino: number, offset: number, length: number): FileExtent[] {
    const file = this.#record(ino, 'regular')
    const { chunkSize, table } = this.#context
    requireIndexes(table)
    const end = Math.min(offset + length, file.sizeBytes)
    const extents: FileExtent[] = []
    if (end <= offset) return extents
    const first = Math.floor(offset / chunkSize)
    visitChunks(this.#context, file, first, Math.ceil(end / chunkSize), chunk => {
      const { fileOffset, uncompressedSize, blobIndex, index } = chunk
      const start = Math.max(offset, fileOffset)
      const address = chunkAddress(chunk.uncompressedOffset, index) + start - fileOffset
      addExtent(extents, start, Math.min(end, fileOffset + uncompressedSize) - start, blobIndex, address)
    })
    return extents
  }

  prefetchInos(): number[] {
    return readPrefetchTable(this.#context.source, this.#sb)
  }

  #record(ino: number, type: InodeType): InodeRecord {
    const record = this.#table.record(ino)
    requireType(ino, record.type, type)
    return record
  }

  #child(index: number, directory: number): InodeRecord {
    const child = this.#table.record(index)
    if (child.parent === directory) return child
    throw child.view.bad(F.INODE_OFF.parent, 'i_parent', child.parent, `${directory} is expected`)
  }
}
