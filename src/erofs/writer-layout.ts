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
export interface PlacedInode {
  readonly inode: ImageInode
  /** Number of its first name, the root being 1. */
  readonly ino: number
  /** Number of names of a regular file; 2 and the child directories for a directory. */
  readonly nlink: number
  readonly offset: number
  /** Directories and symbolic links: where the full data blocks start. */
  readonly dataOffset: number
  /** The last, partial block of data follows the inode. */
  readonly inline: boolean
  /** Directories: blocks of sorted entries, `.` and `..` included. */
  readonly blocks?: readonly DirectoryBlock[]
}

export interface DirectoryEntry {
  readonly name: string
  readonly inode: ImageInode
}
export type DirectoryBlock = readonly DirectoryEntry[]

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
 * grandchild; places go to a directory, the files in it, then to each of its directories in turn.
 */
export function layoutImage(root: DirectoryInode): ImageLayout {
  const { numbers, nameCount } = numberInodes(root)
  const space = new MetadataSpace()
  const placed = new Map<ImageInode, PlacedInode>()
  const place = (inode: ImageInode, parent: DirectoryInode): void => {
    if (placed.has(inode)) return
    const number = numbers.get(inode) ?? { ino: 0, nlink: 0 }
    placed.set(inode, { inode, ...number, ...placeInode(inode, parent, space) })
    if (inode.type !== 'directory') return
    const children = sortedChildren(inode)
    for (const [, child] of children) if (child.type !== 'directory') place(child, inode)
    for (const [, child] of children) if (child.type === 'directory') place(child, inode)
  }
  place(root, root)
  const blobs = new Set<ImageBlob>()
  for (const inode of numbers.keys())
    if (inode.type === 'regular') for (const chunk of inode.chunks) blobs.add(chunk.blob)
  return {
    inodes: [...placed.values()],
    placed,
    nameCount,
    blobs: [...blobs],
    sizeBytes: alignUp(space.end, BLOCK_SIZE),
  }
}

interface InodeNumber {
  readonly ino: number
  nlink: number
}

function numberInodes(root: DirectoryInode): { numbers: Map<ImageInode, InodeNumber>; nameCount: number } {
  const numbers = new Map<ImageInode, InodeNumber>([[root, { ino: 1, nlink: 2 }]])
  let nameCount = 1
  const visit = (directory: DirectoryInode, own: InodeNumber): void => {
    const children = sortedChildren(directory)
    for (const [, child] of children) {
      nameCount++
      const known = numbers.get(child)
      if (known) known.nlink++
      else numbers.set(child, { ino: nameCount, nlink: child.type === 'directory' ? 2 : 1 })
      if (child.type === 'directory') own.nlink++
    }
    for (const [, child] of children) {
      const number = numbers.get(child)
      if (child.type === 'directory' && number) visit(child, number)
    }
  }
  visit(root, numbers.get(root) ?? { ino: 1, nlink: 2 })
  return { numbers, nameCount }
}

function sortedChildren(directory: DirectoryInode): [string, ImageInode][] {
  return [...directory.children].sort(([a], [b]) => (a < b ? -1 : 1))
}

type Place = Pick<PlacedInode, 'offset' | 'dataOffset' | 'inline' | 'blocks'>

function placeInode(inode: ImageInode, parent: DirectoryInode, space: MetadataSpace): Place {
  const size = EXTENDED_INODE_SIZE + xattrAreaSize(inode.xattrs)
  switch (inode.type) {
    case 'directory': {
      const blocks = directoryBlocks(inode, parent)
      return { blocks, ...space.placeFlat(size, directorySize(blocks)) }
    }
    case 'symlink':
      return space.placeFlat(size, inode.target.length)
    case 'regular': {
      const total = alignUp(size, CHUNK_INDEX_SIZE) + inode.chunks.length * CHUNK_INDEX_SIZE
      return { offset: space.placeRegular(total), dataOffset: 0, inline: false }
    }
    case 'charDevice':
    case 'blockDevice':
    case 'fifo':
    case 'socket':
      return { offset: space.append(size), dataOffset: 0, inline: false }
  }
}

/** Cuts a directory into blocks that are self-contained: entries, then their names (rafs.md 1.8). */
function directoryBlocks(directory: DirectoryInode, parent: DirectoryInode): DirectoryBlock[] {
  const entries: DirectoryEntry[] = [
    { name: '.', inode: directory },
    { name: '..', inode: parent },
  ]
  for (const [name, inode] of directory.children) entries.push({ name, inode })
  entries.sort((a, b) => (a.name < b.name ? -1 : 1))
  const blocks: DirectoryEntry[][] = []
  let block: DirectoryEntry[] = []
  let used = 0
  for (const entry of entries) {
    const need = DIRENT_SIZE + entry.name.length
    if (used + need > BLOCK_SIZE) {
      blocks.push(block)
      block = []
      used = 0
    }
    block.push(entry)
    used += need
  }
  blocks.push(block)
  return blocks
}

function directorySize(blocks: readonly DirectoryBlock[]): number {
  return (blocks.length - 1) * BLOCK_SIZE + blockSize(blocks[blocks.length - 1] ?? [])
}

/** Bytes that a directory block uses, without its padding. */
export function blockSize(block: DirectoryBlock): number {
  return block.reduce((sum, entry) => sum + DIRENT_SIZE + entry.name.length, 0)
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

  /** A directory or symbolic link: its inode and `length` bytes of data. */
  placeFlat(inodeSize: number, length: number): Pick<PlacedInode, 'offset' | 'dataOffset' | 'inline'> {
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
    return { offset, dataOffset, inline }
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
