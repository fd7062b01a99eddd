import {
  BLOCK_SIZE,
  CHUNK_INDEX_SIZE,
  DIRENT_SIZE,
  EXTENDED_INODE_SIZE,
  INODE_SLOT_SIZE,
  alignUp,
} from './format.js'
import type { DirectoryInode, ImageBlob, ImageInode } from './image-tree.js'
import { xattrAreaSize } from './writer-xattr.js'

/** Where one inode goes. Offsets are relative to the metadata area (`meta_blkaddr`). */
export class PlacedInode {
  readonly inode: ImageInode
  /** Number of its first name, the root being 1. */
  readonly ino: number
  /** Number of names of a regular file; 2 and the child directories for a directory. */
  nlink: number
  /** Undefined until it is placed. */
  offset: number | undefined = undefined
  /** Of directories and symbolic links. */
  readonly flat: FlatPlace | undefined

  constructor(inode: ImageInode, ino: number, parent: DirectoryInode) {
    this.inode = inode
    this.ino = ino
    this.nlink = inode.type === 'directory' ? 2 : 1
    const isFlat = inode.type === 'directory' || inode.type === 'symlink'
    this.flat = isFlat ? { parent, dataOffset: 0, dataSize: 0, inline: false } : undefined
  }
}

/** Where data goes that stands in the bootstrap itself. */
export interface FlatPlace {
  /** The root's is the root. */
  readonly parent: DirectoryInode
  /** Where the full data blocks start. */
  dataOffset: number
  dataSize: number
  /** The last, partial block follows the inode. */
  inline: boolean
}

export interface ImageLayout {
  /** Each inode once, the root first. */
  readonly inodes: readonly PlacedInode[]
  readonly placed: ReadonlyMap<ImageInode, PlacedInode>
  /** Names in the tree, the root included. */
  readonly nameCount: number
  /** Blobs in order of first reference. */
  readonly blobs: readonly ImageBlob[]
  /** Bytes of the metadata area, a multiple of the block size. */
  readonly sizeBytes: number
}

/**
 * Numbers and places every inode as the reference builder does. Numbers go to all children of a directory before any
 * grandchild; places go to a directory, the files in it, then to each of its directories in turn. The children of each
 * directory come to stand in the order of their names.
 */
export function layoutImage(root: DirectoryInode): ImageLayout {
  const { placed, nameCount } = numberInodes(root)
  const space = new MetadataSpace()
  const inodes: PlacedInode[] = []
  const place = (inode: ImageInode): void => {
    const own = placed.get(inode)
    if (own?.offset !== undefined || own === undefined) return
    placeInode(own, space)
    inodes.push(own)
    if (inode.type !== 'directory') return
    for (const child of inode.children.values()) if (child.type !== 'directory') place(child)
    for (const child of inode.children.values()) if (child.type === 'directory') place(child)
  }
  place(root)
  const blobs = new Set<ImageBlob>()
  for (const inode of placed.keys())
    if (inode.type === 'regular') for (const chunk of inode.chunks) blobs.add(chunk.blob)
  return { inodes, placed, nameCount, blobs: [...blobs], sizeBytes: alignUp(space.end, BLOCK_SIZE) }
}

function numberInodes(root: DirectoryInode): { placed: Map<ImageInode, PlacedInode>; nameCount: number } {
  const first = new PlacedInode(root, 1, root)
  const placed = new Map<ImageInode, PlacedInode>([[root, first]])
  let nameCount = 1
  const visit = (directory: DirectoryInode, own: PlacedInode): void => {
    sortChildren(directory)
    for (const child of directory.children.values()) {
      nameCount++
      const known = placed.get(child)
      if (known) known.nlink++
      else placed.set(child, new PlacedInode(child, nameCount, directory))
      if (child.type === 'directory') own.nlink++
    }
    for (const child of directory.children.values()) {
      const next = child.type === 'directory' ? placed.get(child) : undefined
      if (child.type === 'directory' && next) visit(child, next)
    }
  }
  visit(root, first)
  return { placed, nameCount }
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

function placeInode(placed: PlacedInode, space: MetadataSpace): void {
  const { inode } = placed
  const size = EXTENDED_INODE_SIZE + xattrAreaSize(inode.xattrs)
  switch (inode.type) {
    case 'directory':
    case 'symlink':
      if (placed.flat === undefined) break
      placed.flat.dataSize = inode.type === 'directory' ? directorySize(inode) : inode.target.length
      placed.offset = space.placeFlat(placed.flat, size)
      break
    case 'regular': {
      const total = alignUp(size, CHUNK_INDEX_SIZE) + inode.chunks.length * CHUNK_INDEX_SIZE
      placed.offset = space.placeRegular(total)
      break
    }
    case 'charDevice':
    case 'blockDevice':
    case 'fifo':
    case 'socket':
      placed.offset = space.append(size)
      break
  }
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

/** The reference builder's allocator of the metadata area: bytes at the end, and free slots at the ends of blocks. */
class MetadataSpace {
  // The first block stays unused, so that the root's nid is not 0.
  #end = BLOCK_SIZE
  /** By number of free slots at the end of a block: those blocks' offsets, oldest first. */
  readonly #free: number[][] = Array.from({ length: BLOCK_SIZE / INODE_SLOT_SIZE }, () => [])

  get end(): number {
    return this.#end
  }

  /** A directory or symbolic link: its inode, whose offset is returned, and its data. */
  placeFlat(flat: FlatPlace, inodeSize: number): number {
    const length = flat.dataSize
    const tail = length % BLOCK_SIZE
    const inline = tail !== 0 && inodeSize + tail <= BLOCK_SIZE
    let offset: number
    let dataOffset: number
    if (inline) {
      const need = inodeSize + tail
      const reused = this.#takeFree(need)
      if (reused === undefined) {
        if (BLOCK_SIZE - (this.#end % BLOCK_SIZE) < need) this.#closeBlock()
        offset = this.#end
        this.#end += need
      } else {
        offset = reused
      }
      if (length !== tail) this.#closeBlock()
      dataOffset = this.#end
      this.#end += length - tail
    } else {
      const reused = this.#takeFree(inodeSize)
      offset = reused ?? this.#end
      if (reused === undefined) this.#end += inodeSize
      this.#closeBlock()
      dataOffset = this.#end
      this.#end = alignUp(this.#end + length, BLOCK_SIZE)
    }
    this.#alignSlot()
    flat.dataOffset = dataOffset
    flat.inline = inline
    return offset
  }

  placeRegular(size: number): number {
    return this.#takeFree(size) ?? this.append(size)
  }

  append(size: number): number {
    const offset = this.#end
    this.#end += size
    this.#alignSlot()
    return offset
  }

  #alignSlot(): void {
    this.#end = alignUp(this.#end, INODE_SLOT_SIZE)
  }

  /** Gives the rest of the current block to later inodes and goes on at the next block. */
  #closeBlock(): void {
    this.#addFree(this.#end)
    this.#end = alignUp(this.#end, BLOCK_SIZE)
  }

  #addFree(offset: number): void {
    const used = offset % BLOCK_SIZE
    if (used === 0) return
    this.#free[Math.floor((BLOCK_SIZE - used) / INODE_SLOT_SIZE)]?.push(offset - used)
  }

  #takeFree(size: number): number | undefined {
    if (size >= BLOCK_SIZE) return undefined
    const slots = Math.ceil(size / INODE_SLOT_SIZE)
    for (let count = slots; count < this.#free.length; count++) {
      const block = this.#free[count]?.shift()
      if (block === undefined) continue
      const offset = block + BLOCK_SIZE - INODE_SLOT_SIZE * count
      this.#addFree(offset + INODE_SLOT_SIZE * slots)
      return offset
    }
    return undefined
  }
}
