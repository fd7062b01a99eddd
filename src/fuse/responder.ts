/**
 * Answers to FUSE requests out of what is local: metadata from bootstraps, ready bytes from cache files. What is not local
 * is handed on. One for each worker; no state but buffers, so that requests may come in any order.
 */
import { readSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { fault, isFault } from '../common/fault.js'
import { rangeReady } from '../cache/ready-blocks.js'
import type { FileExtent, InodeAttributes, InodeReader } from '../erofs/inode-reader.js'
import { type Access } from './access-log.js'
import { countOperation, countRead, COUNT, type Line, lineOf, OPERATION_OF } from './counters.js'
import type { Session } from './init.js'
import type { FailureText, Miss, MissPiece, WorkerImage } from './messages.js'
import {
  ERRNO,
  MAX_NAME_BYTES,
  MAX_READ_BYTES,
  OPCODE,
  OPEN_REPLY,
  REPLY_HEADER,
  REQUEST_HEADER,
} from './protocol.js'
import { readDirectory } from './read-directory.js'
import type { ReaderPool } from './reader-pool.js'
import { RecentExtents } from './recent-extents.js'
import { type Entry, type Reply } from './reply.js'
import { seekExtent } from './seek.js'
import { generationOf, type MadeDirectory, type Resolved, type VirtualTree } from './virtual-tree.js'

/** What a responder cannot do itself. */
export interface ResponderHooks {
  /** The answer is given elsewhere. */
  miss(miss: Miss): void
  interrupt(uniqueLow: number, uniqueHigh: number): void
  failed(sequence: number, ino: number, failure: FailureText): void
  accessed(access: Access): void
}

export interface ResponderParts {
  readonly tree: VirtualTree<WorkerImage>
  readonly readers: Pick<ReaderPool, 'get' | 'drop'>
  readonly session: Session
  readonly reply: Reply
  /** What requests are read into. */
  readonly request: Buffer
  readonly hooks: ResponderHooks
  /** Times of made-up directories. */
  readonly createdSec: number
  /** Whose counters these are. */
  readonly worker: number
}

/** A request that is not as the protocol has it. */
class Malformed extends Error {
  readonly errno: number
  constructor(errno: number) {
    super('malformed request')
    this.errno = errno
  }
}

/** In place of a payload's length: nothing is to be written. Other negative lengths are errno values. */
const NO_ANSWER = -0x8000

/** Calls that would change a file. */
const MODIFYING = new Set<number>([
  OPCODE.SETATTR,
  OPCODE.SYMLINK,
  OPCODE.MKNOD,
  OPCODE.MKDIR,
  OPCODE.UNLINK,
  OPCODE.RMDIR,
  OPCODE.RENAME,
  OPCODE.LINK,
  OPCODE.WRITE,
  OPCODE.SETXATTR,
  OPCODE.REMOVEXATTR,
  OPCODE.CREATE,
  OPCODE.FALLOCATE,
  OPCODE.RENAME2,
  OPCODE.COPY_FILE_RANGE,
  OPCODE.TMPFILE,
])

const EMPTY: ReadonlyMap<string, Uint8Array> = new Map()
const DOT = 0x2e
const SLASH = 0x2f

export class Responder {
  /** What is read from the device. */
  readonly request: Buffer
  readonly #words: Uint32Array
  readonly #parts: ResponderParts
  readonly #madeAttributes: InodeAttributes
  /** Of each image, by sequence. */
  readonly #lines = new Map<number, Line>()
  readonly #extents = new RecentExtents()
  #length = 0
  #startedMs = 0

  constructor(parts: ResponderParts) {
    this.#parts = parts
    const { request } = parts
    this.request = request
    this.#words = new Uint32Array(request.buffer, request.byteOffset, request.length / 4)
    this.#madeAttributes = madeAttributes(parts.createdSec)
  }

  /** The request that is worked on. */
  get message(): Uint8Array {
    return this.request.subarray(0, this.#length)
  }
  get opcode(): number {
    return this.#word(1)
  }
  get uniqueLow(): number {
    return this.#word(2)
  }
  get uniqueHigh(): number {
    return this.#word(3)
  }
  /** Imprecise for numbers that no node has. */
  get node(): number {
    return this.#word(4) + this.#word(5) * 2 ** 32
  }

  /**
   * Works on what is in `request`.
   * @param length - bytes that were read
   * @param nowMs - `performance.now()`
   * @returns length of the answer in the reply's bytes; 0 when there is none to be written
   */
  respond(length: number, nowMs: number): number {
    if (length < REQUEST_HEADER || this.#word(0) !== length) return 0
    this.#length = length
    this.#startedMs = nowMs
    const { opcode, node } = this
    const at = this.#parts.tree.resolve(node)
    let payload: number
    try {
      payload = this.#dispatch(opcode, at)
    } catch (err) {
      payload = -this.#errnoOf(err, opcode, at)
    }
    if (payload === NO_ANSWER) return 0
    const errno = Math.max(0, -payload)
    if (at?.image) this.#count(at.image, at.ino, opcode, errno !== 0, opcode === OPCODE.READ ? payload : 0)
    return this.#parts.reply.finish(this.uniqueLow, this.uniqueHigh, errno, Math.max(0, payload))
  }

  /** Forgets what is kept of an image. */
  drop(sequence: number): void {
    this.#parts.readers.drop(sequence)
    this.#extents.clear()
    this.#lines.delete(sequence)
  }

  #dispatch(opcode: number, at: Resolved<WorkerImage> | undefined): number {
    switch (opcode) {
      case OPCODE.FORGET:
      case OPCODE.BATCH_FORGET:
        // Inodes live as long as their image: there is nothing to forget.
        if (at?.image) this.#count(at.image, at.ino, opcode, false, 0)
        return NO_ANSWER
      case OPCODE.INTERRUPT:
        this.#need(8)
        this.#parts.hooks.interrupt(this.#body(0), this.#body(1))
        return NO_ANSWER
      case OPCODE.DESTROY:
      case OPCODE.RELEASE:
      case OPCODE.RELEASEDIR:
      case OPCODE.FLUSH:
        return 0
    }
    if (MODIFYING.has(opcode)) return -ERRNO.EROFS
    if (!at) return -ERRNO.ESTALE
    switch (opcode) {
      case OPCODE.LOOKUP:
        return this.#lookup(at)
      case OPCODE.GETATTR:
        return this.#parts.reply.attributes(this.#entryOf(at))
      case OPCODE.READLINK:
        return this.#readLink(at)
      case OPCODE.OPEN:
        return this.#open(at, OPEN_REPLY.KEEP_CACHE, 'NO_OPEN_SUPPORT')
      case OPCODE.OPENDIR:
        return this.#open(at, OPEN_REPLY.KEEP_CACHE | OPEN_REPLY.CACHE_DIR, 'NO_OPENDIR_SUPPORT')
      case OPCODE.READ:
        return this.#read(at)
      case OPCODE.READDIR:
        return this.#readDirectory(at, false)
      case OPCODE.READDIRPLUS:
        return this.#readDirectory(at, true)
      case OPCODE.GETXATTR:
        return this.#getXattr(at)
      case OPCODE.LISTXATTR:
        return this.#listXattrs(at)
      case OPCODE.STATFS:
        return this.#parts.reply.fileSystem(at.image ? this.#reader(at.image).inodeCount : 0)
      case OPCODE.ACCESS:
        return this.#access(at)
      case OPCODE.LSEEK:
        return this.#seek(at)
      default:
        return -ERRNO.ENOSYS
    }
  }

  #lookup(at: Resolved<WorkerImage>): number {
    const { tree, reply } = this.#parts
    const name = this.#name(0)
    if (name.length === 1 && name[0] === DOT) return reply.entry(this.#entryOf(at))
    if (name.length === 2 && name[0] === DOT && name[1] === DOT) {
      const parent = tree.resolve(this.#parentNode(at))
      return reply.entry(parent && this.#entryOf(parent))
    }
    const cover = tree.coversIn(at)?.get(name.toString('latin1'))
    if (cover) return reply.entry(this.#coverEntry(cover))
    if (!at.image) return reply.entry(undefined)
    const ino = this.#reader(at.image).lookup(at.ino, name)
    return reply.entry(ino === undefined ? undefined : this.#entryOf({ image: at.image, ino }))
  }

  #readLink(at: Resolved<WorkerImage>): number {
    if (!at.image) return -ERRNO.EINVAL
    return this.#parts.reply.data(this.#reader(at.image).readLink(at.ino))
  }

  #open(
    at: Resolved<WorkerImage>,
    flags: number,
    unneeded: 'NO_OPEN_SUPPORT' | 'NO_OPENDIR_SUPPORT',
  ): number {
    // The kernel remembers this and asks no more.
    if (this.#parts.session.flags.has(unneeded)) return -ERRNO.ENOSYS
    if (at.image && unneeded === 'NO_OPEN_SUPPORT') {
      const line = this.#line(at.image)
      line[COUNT.opens] = (line[COUNT.opens] ?? 0) + 1
    }
    return this.#parts.reply.opened(flags)
  }

  #read(at: Resolved<WorkerImage>): number {
    this.#need(24)
    const offset = this.#body64(2)
    const size = Math.min(this.#body(4), MAX_READ_BYTES)
    if (!at.image) return -ERRNO.EISDIR
    const { image, ino } = at
    const extents = this.#extents.find(this.#reader(image), image.sequence, ino, offset, size)
    const length = lengthOf(extents, offset, size)
    const pieces = missingPieces(image, extents, offset)
    if (pieces) {
      const { uniqueLow, uniqueHigh, node } = this
      const { sequence } = image
      const sinceMs = performance.timeOrigin + this.#startedMs
      this.#parts.hooks.miss({ uniqueLow, uniqueHigh, node, sequence, ino, length, pieces, sinceMs })
      return NO_ANSWER
    }
    for (const extent of extents) fill(this.#parts.reply.bytes, image, extent, REPLY_HEADER - offset)
    countRead(this.#line(image), length, Math.round((performance.now() - this.#startedMs) * 1000))
    return length
  }

  #readDirectory(at: Resolved<WorkerImage>, plus: boolean): number {
    this.#need(24)
    const { tree, reply } = this.#parts
    const node = this.node
    return readDirectory(
      {
        at,
        node,
        parentNode: () => this.#parentNode(at),
        covers: tree.coversIn(at),
        reader: at.image && this.#reader(at.image),
        nodeOf: ino => (at.image ? tree.nodeOf(at.image, ino) : ino),
        nodeOfCover: cover => tree.nodeAt(cover),
        entryOf: ino => (at.image ? this.#entryOf({ image: at.image, ino }) : undefined),
        entryOfCover: cover => this.#coverEntry(cover),
      },
      { from: this.#body64(2), sizeBytes: Math.min(this.#body(4), reply.capacity), plus },
      reply,
    )
  }

  #getXattr(at: Resolved<WorkerImage>): number {
    this.#need(8)
    const value = this.#xattrs(at).get(this.#name(8).toString('latin1'))
    if (!value) return -ERRNO.ENODATA
    return this.#sized(value)
  }

  #listXattrs(at: Resolved<WorkerImage>): number {
    this.#need(8)
    let names = ''
    for (const name of this.#xattrs(at).keys()) names += `${name}\0`
    return this.#sized(Buffer.from(names, 'latin1'))
  }

  /** The answer to who asks for the size first. */
  #sized(value: Uint8Array): number {
    const room = this.#body(0)
    if (room === 0) return this.#parts.reply.size(value.length)
    if (value.length > room) return -ERRNO.ERANGE
    return this.#parts.reply.data(value)
  }

  #xattrs(at: Resolved<WorkerImage>): ReadonlyMap<string, Uint8Array> {
    if (!at.image) return EMPTY
    const reader = this.#reader(at.image)
    return reader.hasXattrs ? reader.xattrs(at.ino) : EMPTY
  }

  /** Only of a mount without `default_permissions`. */
  #access(at: Resolved<WorkerImage>): number {
    this.#need(4)
    const { mode, uid, gid } = this.#entryOf(at).attributes
    const [caller, group, mask] = [this.#word(6), this.#word(7), this.#body(0) & 7]
    const bits = caller === uid ? (mode >> 6) & 7 : group === gid ? (mode >> 3) & 7 : mode & 7
    const granted = caller === 0 ? 6 | ((mode & 0o111) === 0 ? 0 : 1) : bits
    if ((mask & ~granted) !== 0) return -ERRNO.EACCES
    return 0
  }

  #seek(at: Resolved<WorkerImage>): number {
    this.#need(20)
    if (!at.image) return -ERRNO.EISDIR
    const found = seekExtent(this.#reader(at.image), at.ino, this.#body64(2), this.#body(4))
    if (found === 'EINVAL' || found === 'ENXIO') return -ERRNO[found]
    return this.#parts.reply.offset(found)
  }

  #entryOf(at: Resolved<WorkerImage>): Entry {
    if (!at.image) return { node: at.directory.ino, generation: 0, attributes: this.#madeAttributes }
    const { image, ino } = at
    const reader = this.#reader(image)
    const attributes = reader.attributes(ino)
    return {
      node: this.#parts.tree.nodeOf(image, ino),
      generation: generationOf(image.sequence),
      attributes: reader.explicitOwners ? attributes : { ...attributes, ...OWN },
    }
  }

  #coverEntry(directory: MadeDirectory): Entry {
    const image = this.#parts.tree.imageOn(directory)
    return this.#entryOf(image ? { image, ino: image.rootIno } : { directory })
  }

  #parentNode(at: Resolved<WorkerImage>): number {
    const { tree } = this.#parts
    if (!at.image) return tree.parentNode(at.directory)
    if (at.ino === at.image.rootIno) return tree.parentNode(tree.under(at.image))
    return tree.nodeOf(at.image, this.#reader(at.image).parentOf(at.ino))
  }

  #reader(image: WorkerImage): InodeReader {
    return this.#parts.readers.get(image)
  }

  #line(image: WorkerImage): Line {
    let line = this.#lines.get(image.sequence)
    if (!line) {
      line = lineOf(image.counters, this.#parts.worker)
      this.#lines.set(image.sequence, line)
    }
    return line
  }

  #count(image: WorkerImage, ino: number, opcode: number, failed: boolean, bytes: number): void {
    const operation = OPERATION_OF[opcode]
    if (operation === undefined) return
    countOperation(this.#line(image), operation, failed)
    if (!image.accounted) return
    const { sequence } = image
    this.#parts.hooks.accessed({ sequence, ino, operation, failed, bytes, timeMs: Date.now() })
  }

  #errnoOf(err: unknown, opcode: number, at: Resolved<WorkerImage> | undefined): number {
    if (err instanceof Malformed) return err.errno
    if (isFault(err, 'INODE_TYPE')) return TYPE_ERRNO[opcode] ?? ERRNO.EINVAL
    const code = isFault(err) ? err.code : 'INTERNAL'
    const message = err instanceof Error ? err.message : String(err)
    if (at?.image) this.#parts.hooks.failed(at.image.sequence, at.ino, { code, message })
    return ERRNO.EIO
  }

  // What the request holds.

  #word(index: number): number {
    return this.#words[index] ?? 0
  }

  #body(word: number): number {
    return this.#word(REQUEST_HEADER / 4 + word)
  }

  #body64(word: number): number {
    const value = this.#body(word) + this.#body(word + 1) * 2 ** 32
    if (!Number.isSafeInteger(value)) throw new Malformed(ERRNO.EINVAL)
    return value
  }

  /** @throws EINVAL for a request that ends before so many bytes after its header */
  #need(bytes: number): void {
    if (this.#length < REQUEST_HEADER + bytes) throw new Malformed(ERRNO.EINVAL)
  }

  /** The name that begins so many bytes after the header, which must not be kept. */
  #name(offset: number): Buffer {
    const from = REQUEST_HEADER + offset
    const end = this.request.subarray(0, this.#length).indexOf(0, from)
    if (end <= from) throw new Malformed(ERRNO.EINVAL)
    if (end - from > MAX_NAME_BYTES) throw new Malformed(ERRNO.ENAMETOOLONG)
    const name = this.request.subarray(from, end)
    if (this.opcode === OPCODE.LOOKUP && name.includes(SLASH)) throw new Malformed(ERRNO.EINVAL)
    return name
  }
}

/** Of an inode that is of another type than the operation is for. */
const TYPE_ERRNO: Readonly<Record<number, number>> = {
  [OPCODE.LOOKUP]: ERRNO.ENOTDIR,
  [OPCODE.READDIR]: ERRNO.ENOTDIR,
  [OPCODE.READDIRPLUS]: ERRNO.ENOTDIR,
}

/** Owners of an image that names none: those of the server. */
const OWN = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 }

function madeAttributes(createdSec: number): InodeAttributes {
  return {
    type: 'directory',
    mode: 0o40777,
    nlink: 2,
    uid: 0,
    gid: 0,
    sizeBytes: 0,
    major: 0,
    minor: 0,
    mtimeSec: createdSec,
    mtimeNsec: 0,
  }
}

/** Bytes of the extents, which follow each other from `offset`. */
function lengthOf(extents: readonly FileExtent[], offset: number, size: number): number {
  let end = offset
  for (const extent of extents) {
    if (extent.fileOffset !== end)
      throw fault('RAFS_FIELD', `a file has no bytes at ${end}: convert the image again`)
    end += extent.length
  }
  if (end - offset > size) throw fault('INTERNAL', 'extents reach beyond what was asked for: report this')
  return end - offset
}

/** What is to be read from cache files when some of it is not local; undefined when all is. */
function missingPieces(
  image: WorkerImage,
  extents: readonly FileExtent[],
  start: number,
): MissPiece[] | undefined {
  let ready = true
  for (const { blobIndex, offset, length } of extents) {
    if (blobIndex === undefined) continue
    const { readyBlocks, sizeBytes } = blobOf(image, blobIndex)
    ready &&= rangeReady(readyBlocks, sizeBytes, offset, length)
  }
  if (ready) return undefined
  const pieces: MissPiece[] = []
  for (const { blobIndex, offset, length, fileOffset } of extents)
    if (blobIndex !== undefined) pieces.push({ at: fileOffset - start, length, blobIndex, offset })
  return pieces
}

/** Copies the extent into the buffer, at its place in the file plus `shift`. */
function fill(bytes: Buffer, image: WorkerImage, extent: FileExtent, shift: number): void {
  const { fileOffset, length, blobIndex, offset } = extent
  const at = fileOffset + shift
  if (blobIndex === undefined) {
    bytes.fill(0, at, at + length)
    return
  }
  const { fillFd } = blobOf(image, blobIndex)
  for (let done = 0; done < length;) {
    const count = readSync(fillFd, bytes, at + done, length - done, offset + done)
    if (count === 0) throw fault('CACHE_IO', `the cache file of blob ${blobIndex} ends at ${offset + done}`)
    done += count
  }
}

function blobOf(image: WorkerImage, index: number): WorkerImage['blobs'][number] {
  const blob = image.blobs[index]
  if (!blob) throw fault('RAFS_FIELD', `a file has bytes in blob ${index}, which the image has not`)
  return blob
}
