import type { InodeAttributes } from '../erofs/inode-reader.js'
import type { InodeType } from '../erofs/inode.js'
import {
  ATTR_REPLY_SIZE,
  DIRENT_SIZE,
  ENTRY_SIZE,
  MAX_READ_BYTES,
  OPEN_REPLY_SIZE,
  REPLY_HEADER,
  STATFS_SIZE,
} from './protocol.js'

/** How long names and attributes hold, in seconds: for ever, as upstream has it; what changes is told to the kernel. */
const VALID_SECONDS = 2 ** 32
const BLOCK_BYTES = 4096
const TWO_32 = 2 ** 32

/** Attributes with the node number that the kernel knows the inode by. */
export interface Entry {
  readonly node: number
  readonly generation: number
  readonly attributes: InodeAttributes
}

const DIRENT_TYPES: Readonly<Record<InodeType, number>> = {
  fifo: 1,
  charDevice: 2,
  directory: 4,
  blockDevice: 6,
  regular: 8,
  symlink: 10,
  socket: 12,
}

/** The header ends with this page, so that what follows it begins with the next. */
const PAGE_BYTES = 4096

/** Memory for answers to the largest READ. */
export const REPLY_BYTES = PAGE_BYTES + MAX_READ_BYTES

/**
 * The buffer that answers are put together in, used again for each: a header of 16 bytes, and what follows. The lengths
 * that methods return are those of the payload.
 */
export class Reply {
  readonly bytes: Buffer
  /** Bytes that may follow the header. */
  readonly capacity: number
  readonly #words: Uint32Array

  /**
   * @param memory - a page more than payloads may have, best at the beginning of one: the kernel copies each page of a
   *   payload that lies across two in two pieces
   */
  constructor(memory: Uint8Array) {
    const { buffer, byteOffset, length } = memory
    const start = byteOffset + PAGE_BYTES - REPLY_HEADER
    this.capacity = length - PAGE_BYTES
    this.bytes = Buffer.from(buffer, start, REPLY_HEADER + this.capacity)
    this.#words = new Uint32Array(buffer, start, this.bytes.length / 4)
  }

  /** Fills in the header. @returns the length of the whole answer */
  finish(uniqueLow: number, uniqueHigh: number, errno: number, payload: number): number {
    const words = this.#words
    const length = REPLY_HEADER + payload
    words[0] = length
    words[1] = -errno
    words[2] = uniqueLow
    words[3] = uniqueHigh
    return length
  }

  /** A name that exists, or with undefined one that does not, which is remembered as long. */
  entry(entry: Entry | undefined): number {
    this.#entry(REPLY_HEADER, entry)
    return ENTRY_SIZE
  }

  attributes(entry: Entry): number {
    this.#words.fill(0, 4, 4 + ATTR_REPLY_SIZE / 4)
    this.#u64(4, VALID_SECONDS)
    this.#attributes(8, entry)
    return ATTR_REPLY_SIZE
  }

  opened(flags: number): number {
    this.#words.fill(0, 4, 4 + OPEN_REPLY_SIZE / 4)
    this.#words[6] = flags
    return OPEN_REPLY_SIZE
  }

  /** @param payload - at most as long as the capacity */
  data(payload: Uint8Array): number {
    this.bytes.set(payload, REPLY_HEADER)
    return payload.length
  }

  /** How long an extended attribute, or the list of their names, is. */
  size(sizeBytes: number): number {
    this.#u64(4, sizeBytes)
    return 8
  }

  offset(offset: number): number {
    this.#u64(4, offset)
    return 8
  }

  fileSystem(inodes: number): number {
    const words = this.#words
    words.fill(0, 4, 4 + STATFS_SIZE / 4)
    this.#u64(10, inodes)
    words[14] = 512
    words[15] = 255
    words[16] = 512
    return STATFS_SIZE
  }

  /** Bytes that a directory entry takes. */
  static direntBytes(nameBytes: number, plus: boolean): number {
    return ((plus ? ENTRY_SIZE : 0) + DIRENT_SIZE + nameBytes + 7) & ~7
  }

  /**
   * Adds a directory entry at a place in the payload; the caller has seen that it fits. Its name is in `bytes` from
   * `start` to `end`.
   * @param next - where reading goes on after it
   */
  dirent(
    at: number,
    bytes: Uint8Array,
    start: number,
    end: number,
    node: number,
    type: InodeType,
    next: number,
  ): number {
    // One piece without calls: a directory has tens of thousands.
    const words = this.#words
    const length = (DIRENT_SIZE + end - start + 7) & ~7
    const word = (REPLY_HEADER + at) >> 2
    words[word + (length >> 2) - 1] = 0
    words[word + (length >> 2) - 2] = 0
    words[word] = node
    words[word + 1] = Math.floor(node / TWO_32)
    words[word + 2] = next
    words[word + 3] = Math.floor(next / TWO_32)
    words[word + 4] = end - start
    words[word + 5] = DIRENT_TYPES[type]
    const memory = this.bytes
    for (let i = start, to = REPLY_HEADER + at + DIRENT_SIZE; i < end; i++, to++) memory[to] = bytes[i] ?? 0
    return length
  }

  /** What comes before a directory entry that tells attributes; without them the kernel is to ask for itself. */
  attributesOfDirent(at: number, entry: Entry | undefined): number {
    this.#entry(REPLY_HEADER + at, entry)
    return ENTRY_SIZE
  }

  #entry(offset: number, entry: Entry | undefined): void {
    const words = this.#words
    const word = offset >> 2
    words.fill(0, word, word + ENTRY_SIZE / 4)
    this.#u64(word + 4, VALID_SECONDS)
    if (!entry) return
    this.#u64(word, entry.node)
    this.#u64(word + 2, entry.generation)
    this.#u64(word + 6, VALID_SECONDS)
    this.#attributes(word + 10, entry)
  }

  #attributes(word: number, { node, attributes }: Entry): void {
    const words = this.#words
    const { sizeBytes, mtimeSec, mtimeNsec } = attributes
    this.#u64(word, node)
    this.#u64(word + 2, sizeBytes)
    this.#u64(word + 4, Math.ceil(sizeBytes / 512))
    this.#u64(word + 6, mtimeSec)
    this.#u64(word + 8, mtimeSec)
    this.#u64(word + 10, mtimeSec)
    words[word + 12] = mtimeNsec
    words[word + 13] = mtimeNsec
    words[word + 14] = mtimeNsec
    words[word + 15] = attributes.mode
    words[word + 16] = attributes.nlink
    words[word + 17] = attributes.uid
    words[word + 18] = attributes.gid
    words[word + 19] = encodeDevice(attributes.major, attributes.minor)
    words[word + 20] = BLOCK_BYTES
    words[word + 21] = 0
  }

  /** Also of a negative number, as two's complement. */
  #u64(word: number, value: number): void {
    // A Uint32Array takes of a number what fits.
    this.#words[word] = value
    this.#words[word + 1] = Math.floor(value / TWO_32)
  }
}

/** A device number as the kernel's new_encode_dev has it. */
function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & ~0xff) << 12)) >>> 0
}
