/**
 * Reads a whole bootstrap of either version into the tree that the image tools share (RAFS v6 bootstrap; EROFS on-disk
 * format).
 *
 * Nothing in the bytes is trusted: a call ends with an image or a Fault, in time and memory bounded by the size of the
 * file.
 */
import type { ByteSource } from '../common/byte-source.js'
import { BlobPool, type LoadOptions, shareBlobs } from './blob-pool.js'
import { type BlobEntry, hasFeature } from './blob-table.js'
import { Bootstrap, claimedBytes } from './bootstrap.js'
import { visitDirectoryBlock } from './directory.js'
import { BLOB_ENTRY_SIZE, BLOB_OFF, MAX_DEPTH, SB_OFF, SUPERBLOCK_OFFSET } from './format.js'
import type {
  DirectoryInode,
  ImageBlob,
  ImageChunk,
  ImageInode,
  InodeAttributes,
  RafsImage,
  RegularInode,
} from './image-tree.js'
import { deviceNumbers, flatBlockCount, type Inode, readFlatBlock } from './inode.js'
import { LoadedChunks } from './load-chunks.js'
import { badField } from './struct-view.js'
import { detectFormat } from './superblock.js'
import { loadImageV5 } from './v5/reader.js'

/**
 * The image that a bootstrap describes. Names that share an inode are one object in the tree, in images of 2022 too,
 * where each name of a hard link has an inode of its own.
 * @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED
 */
export function loadImage(source: ByteSource, options: LoadOptions = {}): RafsImage {
  if (detectFormat(source) === 'rafs-v5') return loadImageV5(source, options)
  const bootstrap = Bootstrap.open(source)
  const { chunks, ...facts } = readChunks(source, bootstrap, options)
  const tree = new TreeLoader(source, bootstrap, chunks, options.numbers)
  const root = tree.load()
  return { ...facts, root, prefetch: bootstrap.prefetchNids().flatMap(nid => tree.byNid.get(nid) ?? []) }
}

/** What an image says of its blobs and of the chunks that its files use; the tree is not looked at. */
export interface LoadedBlobs extends Omit<RafsImage, 'root' | 'prefetch'> {
  readonly chunks: Iterable<ImageChunk>
}

/** @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED */
export function loadBlobs(source: ByteSource, options: LoadOptions = {}): LoadedBlobs {
  if (detectFormat(source) === 'rafs-v5') {
    const { root, ...facts } = loadImageV5(source, options)
    return { ...facts, chunks: chunksOf(root) }
  }
  const { chunks, ...facts } = readChunks(source, Bootstrap.open(source), options)
  return { ...facts, chunks: chunks.all() }
}

function readChunks(
  source: ByteSource,
  { superblock, blobs: entries }: Bootstrap,
  options: LoadOptions,
): Omit<LoadedBlobs, 'chunks'> & { chunks: LoadedChunks } {
  const read = entries.map(entry => loadBlob(source, superblock.blobTable.offset, entry))
  const blobs = shareBlobs(read, options)
  return {
    version: 6,
    chunkSize: superblock.chunkSize,
    compressor: superblock.compressor,
    digester: superblock.digester,
    explicitOwners: superblock.explicitUidGid,
    blobs,
    chunks: new LoadedChunks(source, superblock, entries, blobs, options.pool ?? new BlobPool()),
  }
}

/** Those of all files, as often as they are referred to. */
function* chunksOf(root: DirectoryInode): Generator<ImageChunk, void, undefined> {
  const open = [root]
  for (let directory = open.pop(); directory !== undefined; directory = open.pop()) {
    for (const child of directory.children.values()) {
      if (child.type === 'directory') open.push(child)
      else if (child.type === 'regular') yield* child.chunks
    }
  }
}

function loadBlob(source: ByteSource, table: number, entry: BlobEntry): ImageBlob {
  const { tocSize, tocDigest, metaDigest, metaSize } = entry
  const at = table + entry.index * BLOB_ENTRY_SIZE
  return {
    id: entry.blobId,
    chunkSize: entry.chunkSize,
    chunkCount: entry.chunkCount,
    compressor: entry.compressor,
    digester: entry.digester,
    features: entry.features,
    compressedSize: entry.compressedSize,
    uncompressedSize: entry.uncompressedSize,
    ciCompressor: entry.ciCompressor,
    ciOffset: entry.ciOffset,
    ciCompressedSize: entry.ciCompressedSize,
    ciUncompressedSize: entry.ciUncompressedSize,
    ...(tocSize > 0 && { toc: { sizeBytes: tocSize, digest: tocDigest } }),
    ...(hasFeature(entry, 'separate') && metaDigest && { meta: { digest: metaDigest, sizeBytes: metaSize } }),
    // The entry's own cipher keeps its key to itself.
    ...(hasFeature(entry, 'encrypted') && {
      cipher: {
        key: source.read(at + BLOB_OFF.metaDigest, 32).slice(),
        iv: source.read(at + BLOB_OFF.metaSize, 16).slice(),
      },
    }),
  }
}

class TreeLoader {
  readonly byNid: Map<number, ImageInode>
  readonly #source: ByteSource
  readonly #bootstrap: Bootstrap
  readonly #chunks: LoadedChunks
  /** Files with several names by the builder's own number, for images where each name has its own inode. */
  readonly #linked = new Map<number, RegularInode>()
  readonly #links = new LinkCounts()
  readonly #names = new SameNames()
  /** Bytes of the file that no inode has claimed yet: inodes that overlap run out of them. */
  #room: number
  #nameCount = 1

  constructor(
    source: ByteSource,
    bootstrap: Bootstrap,
    chunks: LoadedChunks,
    byNid = new Map<number, ImageInode>(),
  ) {
    this.byNid = byNid
    this.#source = source
    this.#bootstrap = bootstrap
    this.#chunks = chunks
    this.#room = source.sizeBytes
  }

  load(): DirectoryInode {
    const root = this.#directory(this.#bootstrap.root)
    let level = [root]
    for (let depth = 0; level.length > 0; depth++) {
      const next: Open[] = []
      for (const open of level) this.#fill(open, next)
      if (depth === MAX_DEPTH && next[0] !== undefined)
        throw bad(next[0].inode, 'depth', depth, `a tree is at most ${MAX_DEPTH} directories deep`)
      level = next
    }
    this.#checkCounts()
    return root.directory
  }

  /** A reference that leads to another inode, or to none, leaves some other count wrong. */
  #checkCounts(): void {
    const { inos } = this.#bootstrap.superblock
    if (inos !== this.#nameCount)
      throw badField(
        'RAFS_FIELD',
        'EROFS superblock',
        SUPERBLOCK_OFFSET + SB_OFF.inos,
        'inos',
        inos,
        `the tree has ${this.#nameCount} names`,
      )
    this.#links.check()
    this.#chunks.requireAllUsed()
  }

  /** Reads the entries of a directory; its directories wait in `found`. */
  #fill({ inode, directory }: Open, found: Open[]): void {
    const { superblock } = this.#bootstrap
    const count = flatBlockCount(inode, superblock.blockSize)
    let before = ''
    for (let index = 0; index < count; index++) {
      const { bytes, at } = readFlatBlock(this.#source, superblock, inode, index)
      const names = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
      visitDirectoryBlock(bytes, at, (start, end, nid, type) => {
        const name = this.#names.same(names.toString('latin1', start, end))
        if (name === '.' || name === '..') return
        if (name <= before) throw bad(inode, 'name', name, 'the names of a directory are not in order')
        before = name
        directory.children.set(name, this.#child(nid, type, found))
      })
    }
  }

  #child(nid: number, type: string, found: Open[]): ImageInode {
    this.#nameCount++
    const known = this.byNid.get(nid)
    if (known !== undefined) return this.#again(known, nid, type)
    const inode = this.#bootstrap.inode(nid)
    checkType(inode.type, nid, type)
    if (inode.type !== 'directory') return this.#file(inode)
    const open = this.#directory(inode)
    found.push(open)
    return open.directory
  }

  /** Only regular files are shared in the tree; anything else with a second name is copied. */
  #again(known: ImageInode, nid: number, type: string): ImageInode {
    checkType(known.type, nid, type)
    this.#links.again(nid)
    if (known.type !== 'directory') return known.type === 'regular' ? known : { ...known }
    throw bad({ nid }, 'nid', nid, 'a directory has two places in the tree')
  }

  #directory(inode: Inode): Open {
    this.#claim(inode)
    const { uid, gid, mtime: mtimeSec, mtimeNsec } = inode
    const directory: DirectoryInode = {
      type: 'directory',
      mode: inode.mode & 0o7777,
      uid,
      gid,
      mtimeSec,
      mtimeNsec,
      implicit: false,
      children: new Map(),
    }
    this.#addXattrs(inode, directory)
    this.byNid.set(inode.nid, directory)
    return { inode, directory }
  }

  #file(inode: Inode): ImageInode {
    this.#claim(inode)
    this.#links.first(inode)
    const loaded = this.#content(inode)
    this.#addXattrs(inode, loaded)
    const file = loaded.type === 'regular' && inode.nlink > 1 ? this.#linkedTo(inode, loaded) : loaded
    this.byNid.set(inode.nid, file)
    return file
  }

  /** Every field is named for each type: objects that are put together from others take twice the memory. */
  #content(inode: Inode): Exclude<ImageInode, DirectoryInode> {
    const { type, uid, gid, mtime: mtimeSec, mtimeNsec } = inode
    const mode = inode.mode & 0o7777
    switch (type) {
      case 'regular': {
        const chunks = this.#chunks.ofFile(inode)
        return { type, mode, uid, gid, mtimeSec, mtimeNsec, sizeBytes: inode.size, chunks }
      }
      case 'symlink': {
        const target = this.#bootstrap.readLink(inode)
        return { type, mode, uid, gid, mtimeSec, mtimeNsec, target }
      }
      case 'charDevice':
      case 'blockDevice': {
        const { major, minor } = deviceNumbers(inode)
        return { type, mode, uid, gid, mtimeSec, mtimeNsec, major, minor }
      }
      case 'fifo':
      case 'socket':
        return { type, mode, uid, gid, mtimeSec, mtimeNsec }
      case 'directory':
        throw bad(inode, 'i_mode', inode.mode, 'a directory is no file')
    }
  }

  /** The same file under another nid: equal numbers and equal content (rafs.md 1.10). */
  #linkedTo(inode: Inode, file: RegularInode): RegularInode {
    if (inode.ino === 0) return file
    const first = this.#linked.get(inode.ino)
    if (first === undefined) this.#linked.set(inode.ino, file)
    const same =
      first !== undefined &&
      first.sizeBytes === file.sizeBytes &&
      first.mode === file.mode &&
      first.chunks.every((chunk, index) => chunk === file.chunks[index])
    return same ? first : file
  }

  #addXattrs(inode: Inode, attributes: InodeAttributes): void {
    if (inode.xattrSize === 0) return
    const xattrs = this.#bootstrap.xattrs(inode).map(({ name, value }) => [latin1(name), value] as const)
    if (xattrs.length > 0) attributes.xattrs = new Map(xattrs)
  }

  #claim(inode: Inode): void {
    if (inode.mtimeNsec > 999_999_999)
      throw bad(inode, 'i_mtime_nsec', inode.mtimeNsec, 'a second has 1,000,000,000 nanoseconds')
    this.#room -= claimedBytes(inode, this.#bootstrap.superblock)
    if (this.#room < 0)
      throw bad(inode, 'i_size', inode.size, 'the inodes together claim more bytes than the file has')
  }
}

/** Names of files, against the link counts of their inodes. */
class LinkCounts {
  /** By nid, of inodes that say that they have several. */
  readonly #several = new Map<number, { inode: Inode; names: number }>()

  first(inode: Inode): void {
    if (inode.nlink > 1) this.#several.set(inode.nid, { inode, names: 1 })
  }

  again(nid: number): void {
    const counted = this.#several.get(nid)
    if (counted === undefined) throw bad({ nid }, 'i_nlink', 1, 'the inode has another name or place')
    counted.names++
  }

  /** In images of 2022 each name has an inode of its own, with the builder's number in common. */
  check(): void {
    const odd = [...this.#several.values()].filter(({ inode, names }) => inode.nlink !== names)
    const byNumber = new Map<number, number>()
    for (const { inode, names } of odd) byNumber.set(inode.ino, (byNumber.get(inode.ino) ?? 0) + names)
    for (const { inode, names } of odd) {
      const found = inode.ino === 0 ? names : (byNumber.get(inode.ino) ?? 0)
      if (names > inode.nlink || found < inode.nlink)
        throw bad(inode, 'i_nlink', inode.nlink, `the inode has ${Math.max(names, found)} names`)
    }
  }
}

/** Names that come again and again, such as `index.js` and `__init__.py`, are kept once. */
class SameNames {
  readonly #known = new Map<string, string>()

  same(name: string): string {
    const known = this.#known.get(name)
    if (known !== undefined) return known
    if (this.#known.size >= MAX_SAME_NAMES) this.#known.clear()
    this.#known.set(name, name)
    return name
  }
}

const MAX_SAME_NAMES = 4096

/** A directory whose entries are still to be read. */
interface Open {
  readonly inode: Inode
  readonly directory: DirectoryInode
}

function checkType(type: ImageInode['type'], nid: number, entry: string): void {
  if (entry !== 'unknown' && entry !== type)
    throw bad({ nid }, 'i_mode', type, `its directory entry says ${entry}`)
}

function bad(
  { nid, offset = 0 }: { nid: number; offset?: number },
  field: string,
  value: number | string,
  why: string,
) {
  return badField('RAFS_FIELD', `inode ${nid}`, offset, field, value, why)
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
}
