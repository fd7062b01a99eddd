import {
  BLOCK_SIZE,
  CHUNK_INDEX_SIZE,
  DIRENT_SIZE,
  EXTENDED_INODE_SIZE,
  INODE_SLOT_SIZE,
  alignUp,
} from './format.js'
import { ChunkSet } from './chunk-set.js'
import type { DirectoryInode, ImageBlob, ImageInode, RegularInode } from './image-tree.js'
import { MetadataSpace } from './writer-space.js'
import { xattrAreaSize } from './writer-xattr.js'

/**
 * Where everything goes, in columns: an image may have millions of names. Each name has an index, the root's being 0;
 * names that share an inode share the index of the first of them, which is the inode's.
 */
export class ImageLayout {
  /** The inodes by the indexes of all names. */
  readonly inodes: readonly ImageInode[]
  /** Indexes of inodes, each once, in the order of their places; the root comes first. */
  readonly order: Uint32Array
  /** Blobs in order of first reference. */
  readonly blobs: readonly ImageBlob[]
  /** Bytes of the metadata area, a multiple of the block size. */
  readonly sizeBytes: number
  hasXattrs = false
  readonly #names: NumberedNames
  /** By inode. Slot 0 is nobody's: it stands in the first block, which is not used. */
  readonly #nids: Uint32Array
  /** By inode, of directories and symbolic links: the first full block of data. */
  readonly #dataBlocks: Uint32Array
  readonly #directorySizes: Uint32Array

  constructor(names: NumberedNames) {
    this.#names = names
    this.inodes = names.inodes
    this.#nids = new Uint32Array(names.count)
    this.#dataBlocks = new Uint32Array(names.count)
    this.#directorySizes = new Uint32Array(names.count)
    this.blobs = [...names.blobs]
    const space = new MetadataSpace()
    this.order = this.#placeAll(space)
    this.sizeBytes = alignUp(space.end, BLOCK_SIZE)
  }

  /** Index of the inode that a name leads to. */
  inodeOf(name: number): number {
    return this.#names.firsts[name] ?? 0
  }

  /** Number of the inode as kernels show it: its slot in the metadata area. */
  nid(inode: number): number {
    return this.#nids[inode] ?? 0
  }

  /** Number of names of a regular file; 2 and the child directories for a directory. */
  nlink(inode: number): number {
    return this.#names.links[inode] ?? 0
  }

  /** Index of the directory that holds this one; the root's is the root. */
  parent(directory: number): number {
    return this.#names.parents[directory] ?? 0
  }

  /** Index of the first name in a directory; the others follow it. */
  firstChild(directory: number): number {
    return this.#names.firstChildren[directory] ?? 0
  }

  /** Block of the metadata area where the full data blocks of a directory or symbolic link start. */
  dataBlock(inode: number): number {
    return this.#dataBlocks[inode] ?? 0
  }

  directorySize(directory: number): number {
    return this.#directorySizes[directory] ?? 0
  }

  #placeAll(space: MetadataSpace): Uint32Array {
    const order = new Uint32Array(this.#names.count)
    let placed = 0
    const place = (name: number): void => {
      const index = this.inodeOf(name)
      const inode = this.inodes[index]
      if (inode === undefined || this.nid(index) !== 0) return
      this.#nids[index] = this.#place(index, inode, space) / INODE_SLOT_SIZE
      order[placed++] = index
      if (inode.type !== 'directory') return
      const first = this.firstChild(index)
      const end = first + inode.children.size
      for (let child = first; child < end; child++) if (this.inodes[child]?.type !== 'directory') place(child)
      for (let child = first; child < end; child++) if (this.inodes[child]?.type === 'directory') place(child)
    }
    place(0)
    return order.subarray(0, placed)
  }

  /** Returns the inode's offset in the metadata area. */
  #place(index: number, inode: ImageInode, space: MetadataSpace): number {
    const xattrSize = xattrAreaSize(inode.xattrs)
    const size = EXTENDED_INODE_SIZE + xattrSize
    if (xattrSize > 0) this.hasXattrs = true
    switch (inode.type) {
      case 'directory':
      case 'symlink': {
        const dataSize = inode.type === 'directory' ? directorySize(inode) : inode.target.length
        const { offset, dataOffset } = space.placeFlat(size, dataSize)
        if (inode.type === 'directory') this.#directorySizes[index] = dataSize
        this.#dataBlocks[index] = Math.floor(dataOffset / BLOCK_SIZE)
        return offset
      }
      case 'regular':
        return space.placeRegular(alignUp(size, CHUNK_INDEX_SIZE) + inode.chunks.length * CHUNK_INDEX_SIZE)
      case 'charDevice':
      case 'blockDevice':
      case 'fifo':
      case 'socket':
        return space.append(size)
    }
  }
}

/**
 * Numbers and places every inode as the reference builder does. Numbers go to all children of a directory before any
 * grandchild; places go to a directory, the files in it, then to each of its directories in turn. The children of each
 * directory come to stand in the order of their names.
 */
export function layoutImage(root: DirectoryInode): ImageLayout {
  return new ImageLayout(new NumberedNames(root))
}

/** All names of a tree; the children of a directory have indexes in a row. */
class NumberedNames {
  /** Names in the tree, the root included. */
  readonly count: number
  readonly inodes: ImageInode[]
  readonly firsts: Uint32Array
  readonly links: Uint32Array
  /** By directory. */
  readonly parents: Uint32Array
  readonly firstChildren: Uint32Array
  readonly blobs = new Set<ImageBlob>()
  readonly #repeated: ChunkSet

  constructor(root: DirectoryInode) {
    const { count, repeated } = sortNames(root)
    this.count = count
    this.#repeated = repeated
    this.inodes = new Array<ImageInode>(this.count)
    this.firsts = new Uint32Array(this.count)
    this.links = new Uint32Array(this.count)
    this.parents = new Uint32Array(this.count)
    this.firstChildren = new Uint32Array(this.count)
    this.#number(root)
  }

  #number(root: DirectoryInode): void {
    // Few files have several names, and a map of all would be the biggest part of the layout.
    const files = new Map<ImageInode, number>()
    let next = 0
    const add = (inode: ImageInode, parent: number): void => {
      const name = next++
      this.inodes[name] = inode
      const mayBeShared = inode.type === 'regular' && this.#mayBeShared(inode)
      const first = mayBeShared ? files.get(inode) : undefined
      this.firsts[name] = first ?? name
      if (first !== undefined) {
        this.#link(first)
        return
      }
      this.links[name] = inode.type === 'directory' ? 2 : 1
      if (inode.type === 'directory') {
        this.parents[name] = parent
        if (name !== 0) this.#link(parent)
      } else if (inode.type === 'regular') {
        if (mayBeShared) files.set(inode, name)
        for (const { blob } of inode.chunks) this.blobs.add(blob)
      }
    }
    const visit = (directory: DirectoryInode, index: number): void => {
      const first = next
      this.firstChildren[index] = first
      for (const child of directory.children.values()) add(child, index)
      const end = next
      for (let name = first; name < end; name++) {
        const child = this.inodes[name]
        if (child?.type === 'directory') visit(child, name)
      }
    }
    add(root, 0)
    visit(root, 0)
  }

  /** Names of one file have its first chunk in common. */
  #mayBeShared({ chunks }: RegularInode): boolean {
    return chunks[0] === undefined || this.#repeated.has(chunks[0])
  }

  #link(inode: number): void {
    this.links[inode] = (this.links[inode] ?? 0) + 1
  }
}

/** Brings the children of each directory into the order of their names; counts all names. */
function sortNames(root: DirectoryInode): { count: number; repeated: ChunkSet } {
  let count = 1
  const firstChunks = new ChunkSet()
  /** Those that several names begin with. */
  const repeated = new ChunkSet()
  const open = [root]
  for (let directory = open.pop(); directory !== undefined; directory = open.pop()) {
    sortChildren(directory)
    count += directory.children.size
    for (const child of directory.children.values()) {
      if (child.type === 'directory') open.push(child)
      const first = child.type === 'regular' ? child.chunks[0] : undefined
      if (first !== undefined && !firstChunks.add(first)) repeated.add(first)
    }
  }
  return { count, repeated }
}

/** Children of images that were read are in order already. */
function sortChildren({ children }: DirectoryInode): void {
  let before = ''
  let inOrder = true
  for (const name of children.keys()) {
    inOrder &&= before <= name
    before = name
  }
  if (inOrder) return
  const sorted = [...children].sort(([a], [b]) => (a < b ? -1 : 1))
  children.clear()
  for (const [name, child] of sorted) children.set(name, child)
}

/** The names of a directory with `.` and `..`, in order; the children are. */
export function entryNames(directory: DirectoryInode): string[] {
  const names: string[] = []
  const dots = ['.', '..']
  for (const name of directory.children.keys()) {
    while (dots[0] !== undefined && dots[0] < name) names.push(dots.shift() ?? '')
    names.push(name)
  }
  return [...names, ...dots]
}

/** How many of the names from `first` on fit into a block, and the bytes they take (rafs.md 1.8). */
export function directoryBlock(names: readonly string[], first: number): { count: number; used: number } {
  let used = 0
  let count = 0
  for (let next = names[first]; next !== undefined; next = names[first + count]) {
    const need = DIRENT_SIZE + next.length
    if (used + need > BLOCK_SIZE) break
    used += need
    count++
  }
  return { count, used }
}

function directorySize(directory: DirectoryInode): number {
  const names = entryNames(directory)
  let size = 0
  for (let first = 0; first < names.length;) {
    const { count, used } = directoryBlock(names, first)
    first += count
    size += first < names.length ? BLOCK_SIZE : used
  }
  return size
}
