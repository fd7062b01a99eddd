/** Numbers and places of the names of a tree in a RAFS v5 bootstrap (RAFS v5, inode; building, ordering and layout). */
import { fault } from '../../common/fault.js'
import { CHUNK_RECORD_SIZE, MAX_NAME_BYTES, alignUp } from '../format.js'
import type { DirectoryInode, ImageBlob, ImageInode } from '../image-tree.js'
import * as F from './format.js'

/** One name of the tree; each has an inode of its own in the file, further names of a file too. */
export interface PlacedName {
  readonly inode: ImageInode
  readonly name: string
  /** Number of the directory that holds it; 0 for the root. */
  readonly parent: number
  /** Index of the first name of its inode. */
  readonly ino: number
  /** Of a directory: its children are the names from this index on. */
  readonly childIndex: number
  readonly childCount: number
  /** Absolute offset of its inode. */
  readonly offset: number
}

export interface LayoutV5 {
  /** By index, less 1. */
  readonly names: readonly PlacedName[]
  readonly inodeCount: number
  /** Numbers of the inodes by their objects. */
  readonly inos: ReadonlyMap<ImageInode, number>
  /** How many names files have that have several. */
  readonly linkCounts: ReadonlyMap<ImageInode, number>
  /** Blobs in order of first reference. */
  readonly blobs: readonly ImageBlob[]
  /** Bytes of all inodes. */
  readonly sizeBytes: number
}

/**
 * Indexes go to all children of a directory before any grandchild; places, from 0 on, go to a directory and then to each
 * of its children with all that it holds.
 * @throws IMAGE_INVALID for names and link targets that the format has no place for
 */
export function layoutImageV5(root: DirectoryInode): LayoutV5 {
  const names: Writable<PlacedName>[] = []
  const inos = new Map<ImageInode, number>()
  const linkCounts = new Map<ImageInode, number>()
  const blobs = new Set<ImageBlob>()
  const add = (inode: ImageInode, name: string, parent: number): void => {
    const known = inos.get(inode)
    const ino = known ?? names.length + 1
    if (known === undefined) inos.set(inode, ino)
    else linkCounts.set(inode, (linkCounts.get(inode) ?? 1) + 1)
    names.push({ inode, name, parent, ino, childIndex: 0, childCount: 0, offset: 0 })
    if (known === undefined && inode.type === 'regular')
      for (const chunk of inode.chunks) blobs.add(chunk.blob)
  }
  add(root, F.ROOT_NAME, 0)
  // Indexes of directories whose children have none yet, the next one at the end.
  const open = [F.ROOT_INO]
  for (let index = open.pop(); index !== undefined; index = open.pop()) {
    const own = names[index - 1]
    if (own?.inode.type !== 'directory') continue
    const first = names.length + 1
    for (const [name, child] of sortedChildren(own.inode)) add(child, name, own.ino)
    own.childIndex = first
    own.childCount = names.length + 1 - first
    for (let child = names.length; child >= first; child--)
      if (names[child - 1]?.inode.type === 'directory') open.push(child)
  }
  return { names, inodeCount: inos.size, inos, linkCounts, blobs: [...blobs], sizeBytes: place(names) }
}

type Writable<T> = { -readonly [K in keyof T]: T[K] }

/** Gives each name its offset, and returns where they end. */
function place(names: readonly Writable<PlacedName>[]): number {
  let offset = 0
  const open = [F.ROOT_INO]
  for (let index = open.pop(); index !== undefined; index = open.pop()) {
    const name = names[index - 1]
    if (name === undefined) continue
    name.offset = offset
    offset += recordSize(name)
    for (let child = name.childCount - 1; child >= 0; child--) open.push(name.childIndex + child)
  }
  return offset
}

function sortedChildren(directory: DirectoryInode): [string, ImageInode][] {
  return [...directory.children].sort(([a], [b]) => (a < b ? -1 : 1))
}

function recordSize({ inode, name }: PlacedName): number {
  if (name.length > MAX_NAME_BYTES)
    throw fault('IMAGE_INVALID', `a file name has ${name.length} bytes, ${MAX_NAME_BYTES} are possible`)
  let size = F.INODE_SIZE + alignUp(name.length, F.ALIGNMENT)
  if (inode.type === 'symlink') {
    if (inode.target.length > 0xffff)
      throw fault(
        'IMAGE_INVALID',
        `the target of ${name} has ${inode.target.length} bytes, 65,535 are possible`,
      )
    size += alignUp(inode.target.length, F.ALIGNMENT)
  }
  if (inode.xattrs && inode.xattrs.size > 0) {
    size += F.XATTRS_HEADER_SIZE + alignUp(xattrsSizeV5(inode.xattrs), F.ALIGNMENT)
  }
  return inode.type === 'regular' ? size + inode.chunks.length * CHUNK_RECORD_SIZE : size
}

/** Bytes of all pairs of extended attributes. */
export function xattrsSizeV5(xattrs: ReadonlyMap<string, Uint8Array> | undefined): number {
  let size = 0
  for (const [name, value] of xattrs ?? []) size += F.XATTR_PAIR_HEADER_SIZE + name.length + 1 + value.length
  return size
}
