/**
 * Reader of a RAFS v5 bootstrap (Nydus on-disk format: RAFS v5) into the tree that every tool shares.
 *
 * Nothing in the bytes is trusted: whatever they say, a call ends with an image or a Fault that names the field and where
 * it stands, in time and memory that are bounded by the size of the file.
 */
import type { ByteSource } from '../../common/byte-source.js'
import { hexDigestOf, type Digester } from '../../common/digest.js'
import { type LoadOptions, shareBlobs } from '../blob-pool.js'
import { CHUNK_RECORD_SIZE, DIGEST_SIZE, MAX_DEPTH } from '../format.js'
import type { DirectoryInode, ImageInode, RafsImage, RegularInode } from '../image-tree.js'
import { deviceNumbers } from '../inode.js'
import { badField, readStruct, type StructView } from '../struct-view.js'
import { parseBlobTableV5 } from './blob-table.js'
import { ChunkRecords } from './chunks.js'
import * as F from './format.js'
import { InodeTable } from './inode-table.js'
import { InodeRecord, latin1 } from './inode.js'
import { parseSuperblockV5, readPrefetchTable, type SuperblockV5 } from './superblock.js'

export interface LoadOptionsV5 extends LoadOptions {
  /** Recomputes the digest of every inode: of a directory from its entries, of a file from its chunks' digests. */
  readonly verifyDigests?: boolean
}

/** @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED */
export function loadImageV5(source: ByteSource, options: LoadOptionsV5 = {}): RafsImage {
  const sb = parseSuperblockV5(source)
  const { extended, ...table } = parseBlobTableV5(source, sb)
  const blobs = shareBlobs(table.blobs, options)
  const context = { source, table: { blobs, extended }, chunkSize: sb.chunkSize }
  const chunks = new ChunkRecords(context, options.pool)
  const loader = new TreeLoader(source, sb, chunks, options)
  const root = loader.load()
  return {
    version: 5,
    chunkSize: sb.chunkSize,
    compressor: sb.compressor,
    digester: sb.digester,
    explicitOwners: sb.explicitOwners,
    blobs,
    root,
    prefetch: loader.prefetch,
  }
}

interface NamedRecord {
  readonly record: InodeRecord
  readonly name: string
}

class TreeLoader {
  readonly #source: ByteSource
  readonly #sb: SuperblockV5
  readonly #chunks: ChunkRecords
  /** Undefined when digests are not verified. */
  readonly #digester: Digester | undefined
  readonly #numbers: Map<number, ImageInode> | undefined
  readonly #table: InodeTable
  /** By index in the inode table: 1 for those that have been met. */
  readonly #seen: Uint8Array
  #seenCount = 0
  #inodeCount = 0
  /** Bytes of the file that no inode has claimed yet. */
  #room: number
  /** Files with several names, by their number. */
  readonly #shared = new Map<number, RegularInode>()
  readonly #prefetchInos: number[]
  /** By number, those that are to be prefetched; undefined until they are met. */
  readonly #prefetch: Map<number, ImageInode | undefined>

  constructor(source: ByteSource, sb: SuperblockV5, chunks: ChunkRecords, options: LoadOptionsV5) {
    this.#source = source
    this.#sb = sb
    this.#chunks = chunks
    this.#digester = options.verifyDigests ? sb.digester : undefined
    this.#numbers = options.numbers
    this.#table = new InodeTable(source, sb)
    this.#seen = new Uint8Array(sb.nameCount + 1)
    this.#room = source.sizeBytes
    this.#prefetchInos = readPrefetchTable(source, sb)
    this.#prefetch = new Map(this.#prefetchInos.map(ino => [ino, undefined]))
  }

  /** The inodes of the prefetch table. It is advice: numbers that no inode has are left out. */
  get prefetch(): ImageInode[] {
    return this.#prefetchInos.flatMap(ino => this.#prefetch.get(ino) ?? [])
  }

  load(): DirectoryInode {
    const record = this.#record(F.ROOT_INO)
    record.name()
    const root = this.#inode(record)
    if (root.type !== 'directory')
      throw record.view.bad(F.INODE_OFF.mode, 'i_mode', record.mode, 'the root is a directory')
    // Their records are read again in their turn: kept, each would hold on to the block of the file that it came from.
    const open = [{ offset: record.view.at, ino: F.ROOT_INO, directory: root, depth: 0 }]
    for (let top = open.pop(); top !== undefined; top = open.pop()) {
      const { directory, depth } = top
      for (const child of this.#children(new InodeRecord(this.#source, top.offset, top.ino))) {
        const inode = this.#inode(child.record)
        directory.children.set(child.name, inode)
        if (inode.type !== 'directory') continue
        const why = `a tree is at most ${MAX_DEPTH} directories deep`
        const { view, ino } = child.record
        view.check(depth < MAX_DEPTH, F.INODE_OFF.parent, 'depth', depth + 1, why)
        open.push({ offset: view.at, ino, directory: inode, depth: depth + 1 })
      }
    }
    this.#checkCounts()
    return root
  }

  /** In their order, which is that of their names. */
  *#children(parent: InodeRecord): Generator<NamedRecord, void, undefined> {
    const { view, childCount, ino } = parent
    const first = this.#table.firstChild(parent)
    const digests = this.#digester && Buffer.allocUnsafe(childCount * DIGEST_SIZE)
    let previous = ''
    for (let index = first; index < first + childCount; index++) {
      const record = this.#record(index)
      if (record.parent !== ino)
        throw record.view.bad(F.INODE_OFF.parent, 'i_parent', record.parent, `${ino} is expected`)
      const name = latin1(record.name())
      if (name <= previous) {
        const at = record.view.at + F.INODE_SIZE
        const why = 'the names of a directory ascend'
        throw badField('RAFS_FIELD', `name of inode ${index}`, at, 'name', name, why)
      }
      previous = name
      digests?.set(storedDigest(record.view), (index - first) * DIGEST_SIZE)
      yield { record, name }
    }
    if (digests) this.#checkDigest(view, digests)
  }

  /** The name at an index of the inode table; each index has one place in the tree. */
  #record(index: number): InodeRecord {
    const record = this.#table.record(index)
    const { view, type, childCount, ino, parent } = record
    if (this.#seen[index] !== 0) throw this.#table.bad(index, view.at, 'it has two places in the tree')
    this.#seen[index] = 1
    this.#seenCount++
    const chunks = type === 'regular' ? childCount * CHUNK_RECORD_SIZE : 0
    this.#room -= record.chunksOffset() - view.at + chunks
    if (this.#room < 0)
      throw this.#table.bad(index, view.at, 'the inodes together claim more bytes than the file has')
    if (ino === index) this.#inodeCount++
    if (index === F.ROOT_INO)
      view.check(parent === 0, F.INODE_OFF.parent, 'i_parent', parent, 'the root has none')
    return record
  }

  #inode(record: InodeRecord): ImageInode {
    const made = this.#make(record)
    const inode = made.type === 'regular' && record.nlink > 1 ? this.#share(record, made) : made
    this.#numbers?.set(record.ino, inode)
    if (this.#prefetch.has(record.ino)) this.#prefetch.set(record.ino, inode)
    return inode
  }

  /** One object for all names of a file: each name has a full inode of its own, and they must agree. */
  #share(record: InodeRecord, made: RegularInode): RegularInode {
    const first = this.#shared.get(record.ino)
    if (first === undefined) {
      this.#shared.set(record.ino, made)
      return made
    }
    const field = differingField(made, first)
    if (field !== undefined)
      throw record.view.bad(0, field, record.ino, `the names of inode ${record.ino} disagree about it`)
    return first
  }

  /** With its digest checked, unless it is a directory: that has to wait for its children. */
  #make(record: InodeRecord): ImageInode {
    // First, because their size says where the chunks are.
    const xattrs = record.xattrs()
    const inode = this.#content(record)
    if (xattrs.size > 0) inode.xattrs = xattrs
    return inode
  }

  /** Every field is named for each type: objects that are put together from others take twice the memory. */
  #content(record: InodeRecord): ImageInode {
    const { type, uid, gid, mtimeSec, mtimeNsec, sizeBytes, view } = record
    const mode = record.mode & 0o7777
    switch (type) {
      case 'directory':
        return { type, mode, uid, gid, mtimeSec, mtimeNsec, children: new Map(), implicit: false }
      case 'regular': {
        const digests = this.#digester && Buffer.allocUnsafe(record.childCount * DIGEST_SIZE)
        const chunks = this.#chunks.read(record, digests)
        if (digests) this.#checkDigest(view, digests)
        return { type, mode, uid, gid, mtimeSec, mtimeNsec, sizeBytes, chunks }
      }
      case 'symlink': {
        const target = record.target().slice()
        this.#checkDigest(view, target)
        return { type, mode, uid, gid, mtimeSec, mtimeNsec, target }
      }
      case 'charDevice':
      case 'blockDevice': {
        this.#checkDigest(view, EMPTY)
        const { major, minor } = deviceNumbers({ u: record.rdev })
        return { type, mode, uid, gid, mtimeSec, mtimeNsec, major, minor }
      }
      case 'fifo':
      case 'socket':
        this.#checkDigest(view, EMPTY)
        return { type, mode, uid, gid, mtimeSec, mtimeNsec }
    }
  }

  /** `digested`: what the digest of the inode is made of. */
  #checkDigest(view: StructView, digested: Uint8Array): void {
    if (this.#digester === undefined) return
    const stored = storedDigest(view).toString('hex')
    const computed = hexDigestOf(this.#digester, digested)
    if (stored === computed) return
    throw view.bad(
      F.INODE_OFF.digest,
      'i_digest',
      stored,
      `${computed} is expected: the inode or something below it is damaged`,
    )
  }

  #checkCounts(): void {
    const { nameCount, inodesCount } = this.#sb
    if (this.#seenCount !== nameCount) {
      const index = this.#seen.indexOf(0, 1)
      throw this.#table.bad(index, this.#table.offsetOf(index), 'no directory holds it')
    }
    const sb = readStruct(this.#source, 0, F.SB_OFF.inodeTableOffset, 'RAFS v5 superblock')
    sb.check(
      this.#inodeCount === inodesCount,
      F.SB_OFF.inodesCount,
      'inodes_count',
      inodesCount,
      `the tree has ${this.#inodeCount} inodes`,
    )
  }
}

const EMPTY = new Uint8Array(0)

function differingField(a: RegularInode, b: RegularInode): string | undefined {
  for (const field of ['mode', 'uid', 'gid', 'mtimeSec', 'mtimeNsec', 'sizeBytes'] as const)
    if (a[field] !== b[field]) return field
  if (a.chunks.some((chunk, i) => chunk !== b.chunks[i])) return 'chunks'
  if ((a.xattrs?.size ?? 0) !== (b.xattrs?.size ?? 0)) return 'xattrs'
  for (const [name, value] of a.xattrs ?? []) {
    const other = b.xattrs?.get(name)
    if (other === undefined || Buffer.compare(value, other) !== 0) return 'xattrs'
  }
  return undefined
}

function storedDigest({ bytes }: StructView): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset + F.INODE_OFF.digest, DIGEST_SIZE)
}
