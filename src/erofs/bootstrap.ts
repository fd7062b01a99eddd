/**
 * Reader of a RAFS v6 bootstrap: an EROFS image whose file data lives in external devices, one for each blob (EROFS
 * on-disk format; RAFS v6 bootstrap).
 *
 * Nothing in the bytes is trusted: whatever they say, a call ends with a result or a Fault, in time and memory that are
 * bounded by the size of the file.
 */
import type { ByteSource } from '../common/byte-source.js'
import { fault } from '../common/fault.js'
import { parseBlobTable, type BlobEntry } from './blob-table.js'
import { readFileChunks, type FileChunk } from './chunk-index.js'
import { ChunkDigests, readChunkTable } from './chunk-table.js'
import { parseDeviceTable, type DeviceSlot } from './device-table.js'
import { compareFirstName, findInBlock, isDotName, parseDirectoryBlock, type Dirent } from './directory.js'
import { flatBlockCount, parseInode, readFlatBlock, readFlatData, type Inode } from './inode.js'
import { CHUNK_INDEX_SIZE } from './format.js'
import { badField, readStruct } from './struct-view.js'
import { parseSuperblock, type Superblock } from './superblock.js'
import { readXattrs, type Xattr } from './xattr.js'

const SLASH = Buffer.from('/')

/** One name of the tree. The path is made when asked for, so that a deep tree costs no memory. */
export class WalkEntry {
  /** Undefined for the root. */
  readonly parent: WalkEntry | undefined
  /** Empty for the root. */
  readonly name: Uint8Array
  readonly inode: Inode
  constructor(parent: WalkEntry | undefined, name: Uint8Array, inode: Inode) {
    this.parent = parent
    this.name = name
    this.inode = inode
  }
  /** Path from the root without a leading slash, as bytes. */
  path(): Uint8Array {
    if (this.parent === undefined) return this.name
    const parts = [this.name]
    for (let up = this.parent; up.parent !== undefined; up = up.parent) parts.push(SLASH, up.name)
    return Buffer.concat(parts.reverse())
  }
}

export class Bootstrap {
  readonly superblock: Superblock
  readonly devices: readonly DeviceSlot[]
  /** In the order of the device table. */
  readonly blobs: readonly BlobEntry[]
  readonly #source: ByteSource
  #digests: ChunkDigests[] | undefined

  private constructor(source: ByteSource) {
    this.#source = source
    this.superblock = parseSuperblock(source)
    this.devices = parseDeviceTable(source, this.superblock.deviceCount)
    this.blobs = parseBlobTable(source, this.superblock.blobTable, this.superblock.chunkSize)
    for (const [index, blob] of this.blobs.entries()) checkDevice(this.superblock, blob, this.devices[index])
  }

  /**
   * Parses superblocks, device table and blob table; the tree is read on demand.
   * @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED
   */
  static open(source: ByteSource): Bootstrap {
    return new Bootstrap(source)
  }

  get root(): Inode {
    const root = this.inode(this.superblock.rootNid)
    if (root.type !== 'directory')
      throw badField('RAFS_FIELD', 'root inode', root.offset, 'i_mode', root.mode, 'the root is a directory')
    return root
  }

  /** @throws RAFS_FIELD, RAFS_TRUNCATED */
  inode(nid: number): Inode {
    return parseInode(this.#source, this.superblock, nid)
  }

  /** The entries of a directory in their order, without `.` and `..`. @throws RAFS_FIELD, RAFS_TRUNCATED */
  *readDirectory(directory: Inode): Generator<Dirent, void, undefined> {
    if (directory.type !== 'directory') return
    const count = flatBlockCount(directory, this.superblock.blockSize)
    for (let index = 0; index < count; index++) {
      const { bytes, at } = readFlatBlock(this.#source, this.superblock, directory, index)
      for (const entry of parseDirectoryBlock(bytes, at))
        if (!isDotName(entry.name, 0, entry.name.length)) yield entry
    }
  }

  /**
   * The inode at a path from the root; symlinks are not followed. Undefined when a component is missing or is not a
   * directory. @throws RAFS_FIELD, RAFS_TRUNCATED
   */
  lookup(path: Uint8Array | string): Inode | undefined {
    let inode = this.root
    for (const name of components(typeof path === 'string' ? Buffer.from(path) : path)) {
      const nid = this.find(inode, name)
      if (nid === undefined) return undefined
      inode = this.inode(nid)
    }
    return inode
  }

  /** The nid of a name in a directory, `.` and `..` included; undefined for anything else. @throws as above */
  find(directory: Inode, name: Uint8Array): number | undefined {
    if (directory.type !== 'directory') return undefined
    let low = 0
    let high = flatBlockCount(directory, this.superblock.blockSize) - 1
    if (high < 0) return undefined
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      const { bytes, at } = readFlatBlock(this.#source, this.superblock, directory, middle)
      if (compareFirstName(bytes, at, name) <= 0) low = middle
      else high = middle - 1
    }
    const { bytes, at } = readFlatBlock(this.#source, this.superblock, directory, low)
    return findInBlock(bytes, at, name)
  }

  /** The target of a symlink, as bytes. @throws RAFS_FIELD, RAFS_TRUNCATED */
  readLink(inode: Inode): Uint8Array {
    if (inode.type !== 'symlink')
      throw fault('RAFS_FIELD', `inode ${inode.nid} is a ${inode.type}, not a symlink`)
    return readFlatData(this.#source, this.superblock, inode)
  }

  /** @throws RAFS_FIELD, RAFS_TRUNCATED */
  xattrs(inode: Inode): Xattr[] {
    return readXattrs(this.#source, inode)
  }

  /** The chunks of a regular file in file order; none for anything else. @throws RAFS_FIELD, RAFS_TRUNCATED */
  fileChunks(inode: Inode): Generator<FileChunk, void, undefined> {
    return readFileChunks(this.#source, this.superblock, this.blobs, inode)
  }

  /**
   * Every name of the tree, depth first, a directory before its entries; the root comes first. A hard link comes once for
   * each name, with the same nid. Damaged trees end too: a directory that is met twice is a fault, and so are inodes that
   * together claim more bytes than the file has.
   * @throws RAFS_FIELD, RAFS_TRUNCATED
   */
  *walk(): Generator<WalkEntry, void, undefined> {
    const root = new WalkEntry(undefined, new Uint8Array(0), this.root)
    const seen = new Set<number>([root.inode.nid])
    let room = this.#source.sizeBytes - claimedBytes(root.inode, this.superblock)
    yield root
    const open = [{ entry: root, children: this.readDirectory(root.inode) }]
    for (let top = open.at(-1); top !== undefined; top = open.at(-1)) {
      const next = top.children.next()
      if (next.done) {
        open.pop()
        continue
      }
      const { name, nid, type } = next.value
      const inode = this.inode(nid)
      const isNew = !seen.has(nid)
      if (isNew) room -= claimedBytes(inode, this.superblock)
      checkName(inode, type, isNew, room)
      seen.add(nid)
      const entry = new WalkEntry(top.entry, name, inode)
      yield entry
      if (inode.type === 'directory') open.push({ entry, children: this.readDirectory(inode) })
    }
  }

  /** Digests of the chunks of a blob that the image uses; undefined when the image has no chunk table. @throws RAFS_FIELD */
  chunkDigests(blobIndex: number): ChunkDigests | undefined {
    if (this.superblock.chunkTable.size === 0) return undefined
    this.#digests ??= readChunkTable(this.#source, this.superblock.chunkTable, this.blobs)
    return this.#digests[blobIndex]
  }

  /** Nids that the image's builder wants prefetched, in order; advisory: they may name nothing. @throws RAFS_TRUNCATED */
  prefetchNids(): number[] {
    const { offset, size } = this.superblock.prefetchTable
    const view = readStruct(this.#source, offset, size, 'prefetch table')
    const nids: number[] = []
    for (let at = 0; at < size; at += 4) {
      const nid = view.u32(at)
      if (nid === 0) break
      nids.push(nid)
    }
    return nids
  }
}

function* components(path: Uint8Array): Generator<Uint8Array> {
  for (let start = 0; start < path.length;) {
    let end = path.indexOf(0x2f, start)
    if (end < 0) end = path.length
    if (end > start) yield path.subarray(start, end)
    start = end + 1
  }
}

/** The kernel reads slot i for blob i, and asks for it by its tag: both must be this blob. */
function checkDevice(sb: Superblock, blob: BlobEntry, slot: DeviceSlot | undefined): void {
  if (slot !== undefined && slot.tag === blob.blobId && slot.blocks * sb.blockSize >= blob.uncompressedSize)
    return
  const shown = slot === undefined ? 'missing' : `${slot.tag}, ${slot.blocks} blocks`
  throw fault(
    'RAFS_FIELD',
    `device slot ${blob.index} is ${shown}, but blob ${blob.index} is ${blob.blobId} with ` +
      `${blob.uncompressedSize} bytes: the bootstrap is damaged, fetch it again`,
    { context: { field: 'device slot', offset: blob.index, value: shown } },
  )
}

/** Bytes of the file that are an inode's own: itself, its xattrs, its flat data or chunk indexes. */
export function claimedBytes(inode: Inode, sb: Superblock): number {
  const data = inode.type === 'regular' ? Math.ceil(inode.size / sb.chunkSize) * CHUNK_INDEX_SIZE : inode.size
  return inode.headerSize + inode.xattrSize + data
}

function checkName(inode: Inode, type: Dirent['type'], isNew: boolean, room: number): void {
  const bad = (field: string, value: string | number, why: string) =>
    badField('RAFS_FIELD', `inode ${inode.nid}`, inode.offset, field, value, why)
  if (type !== 'unknown' && type !== inode.type)
    throw bad('i_mode', inode.type, `its directory entry says ${type}`)
  if (inode.type === 'directory' && !isNew)
    throw bad('nid', inode.nid, 'a directory has two places in the tree')
  if (room < 0) throw bad('i_size', inode.size, 'the inodes together claim more bytes than the file has')
}
