import { BLOCK_SIZE, INODE_SLOT_SIZE, alignUp } from './format.js'

/** The last, partial block of a directory's or symbolic link's data follows its inode. */
export function isInline(inodeSize: number, dataSize: number): boolean {
  const tail = dataSize % BLOCK_SIZE
  return tail !== 0 && inodeSize + tail <= BLOCK_SIZE
}

/** The reference builder's allocator of the metadata area: bytes at the end, and free slots at the ends of blocks. */
export class MetadataSpace {
  // The first block stays unused, so that the root's nid is not 0.
  #end = BLOCK_SIZE
  /** By number of free slots at the end of a block: those blocks' offsets, oldest first. */
  readonly #free: number[][] = Array.from({ length: BLOCK_SIZE / INODE_SLOT_SIZE }, () => [])
  /** No block has more free slots than this. */
  #mostFree = 0

  get end(): number {
    return this.#end
  }

  /** A directory or symbolic link: its inode, and the full blocks of its data. */
  placeFlat(inodeSize: number, dataSize: number): { offset: number; dataOffset: number } {
    const tail = dataSize % BLOCK_SIZE
    let offset: number
    let dataOffset: number
    if (isInline(inodeSize, dataSize)) {
      const need = inodeSize + tail
      const reused = this.#takeFree(need)
      if (reused === undefined) {
        if (BLOCK_SIZE - (this.#end % BLOCK_SIZE) < need) this.#closeBlock()
        offset = this.#end
        this.#end += need
      } else {
        offset = reused
      }
      if (dataSize !== tail) this.#closeBlock()
      dataOffset = this.#end
      this.#end += dataSize - tail
    } else {
      const reused = this.#takeFree(inodeSize)
      offset = reused ?? this.#end
      if (reused === undefined) this.#end += inodeSize
      this.#closeBlock()
      dataOffset = this.#end
      this.#end = alignUp(this.#end + dataSize, BLOCK_SIZE)
    }
    this.#alignSlot()
    return { offset, dataOffset }
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
    const count = Math.floor((BLOCK_SIZE - used) / INODE_SLOT_SIZE)
    this.#free[count]?.push(offset - used)
    this.#mostFree = Math.max(this.#mostFree, count)
  }

  #takeFree(size: number): number | undefined {
    if (size >= BLOCK_SIZE) return undefined
    const slots = Math.ceil(size / INODE_SLOT_SIZE)
    for (let count = slots; count <= this.#mostFree; count++) {
      const block = this.#free[count]?.shift()
      if (block === undefined) continue
      const offset = block + BLOCK_SIZE - INODE_SLOT_SIZE * count
      this.#addFree(offset + INODE_SLOT_SIZE * slots)
      return offset
    }
    this.#mostFree = Math.min(this.#mostFree, slots - 1)
    return undefined
  }
}
