/**
 * One interface over the metadata of both RAFS versions, for who serves an image by inode number: every call reads what
 * it needs from the bootstrap and keeps nothing, so that an image of any size costs the same memory.
 */
import type { InodeType } from './inode.js'

/** What stat(2) tells of an inode. */
export interface InodeAttributes {
  readonly type: InodeType
  /** st_mode with the type bits. */
  readonly mode: number
  readonly nlink: number
  readonly uid: number
  readonly gid: number
  readonly sizeBytes: number
  /** Of a device file, else 0 and 0. */
  readonly major: number
  readonly minor: number
  /** Seconds since 1970, may be negative. */
  readonly mtimeSec: number
  readonly mtimeNsec: number
}

/** Where `length` bytes at `fileOffset` of a file are. */
export interface FileExtent {
  readonly fileOffset: number
  readonly length: number
  /** Place of the blob in the image's blob table; undefined for a hole, which reads as zeros. */
  readonly blobIndex: number | undefined
  /** Where the bytes are in the blob's cache file: its uncompressed address space (see BlobLayout). */
  readonly offset: number
}

/**
 * Called for each entry of a directory, whose name is in `bytes` from `start` to `end`: a view of each would cost more than
 * all else. `next` is where to go on after it. False ends the reading.
 * @param bytes - is used again: copy what outlives the call
 */
export type EntryVisitor = (
  bytes: Uint8Array,
  start: number,
  end: number,
  ino: number,
  type: InodeType,
  next: number,
) => boolean

export interface InodeReader {
  readonly version: 5 | 6
  readonly rootIno: number
  readonly inodeCount: number
  /** False: the image was built without extended attributes. */
  readonly hasXattrs: boolean
  /** False: the owners in the attributes mean nothing, a server shows its own. */
  readonly explicitOwners: boolean
  /** @throws RAFS_FIELD, RAFS_TRUNCATED, as all below */
  attributes(ino: number): InodeAttributes
  /**
   * The inode of a name in a directory; undefined when there is none, as for `.` and `..`.
   * @throws INODE_TYPE when it is no directory
   */
  lookup(directory: number, name: Uint8Array): number | undefined
  /** The directory that holds this directory; the root's is the root itself. @throws INODE_TYPE */
  parentOf(directory: number): number
  /**
   * The entries of a directory without `.` and `..`, in a fixed order.
   * @param from - 0 for the first, else what a visitor got as `next`
   * @throws INODE_TYPE
   */
  readDirectory(directory: number, from: number, visit: EntryVisitor): void
  /** @throws INODE_TYPE */
  readLink(ino: number): Uint8Array
  /** Names (`latin1`, with their prefix) and values. */
  xattrs(ino: number): ReadonlyMap<string, Uint8Array>
  /**
   * Where a range of a regular file is, in file order, clipped to the file's size; pieces that lie one after the other in
   * one cache file are one extent. @throws INODE_TYPE
   */
  extents(ino: number, offset: number, length: number): FileExtent[]
  /** What the builder wants prefetched, in order; advice: a number may be of no inode. The root stands for everything. */
  prefetchInos(): number[]
}
