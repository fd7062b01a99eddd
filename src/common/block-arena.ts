/** Small, so that what is read beside the wanted bytes costs little: the page cache is behind it. */
export const ARENA_BLOCK = 4096
/** Of all files of a thread together; what is not used takes no memory. */
const SLOTS = 2048
/**
 * While so many others are looked at, a block stays where it is. More than who reads the inode of every entry of one
 * directory block looks at: 315 entries, each with an inode in two blocks.
 */
export const ARENA_STAY = 1024

/** Reads `length` bytes at `position` of a file into `into` at `at`. */
export type ReadInto = (into: Uint8Array, at: number, length: number, position: number) => void

/**
 * Blocks of any number of files in one piece of memory that is used over and over: memory of its own for each block costs
 * five times as much as reading it.
 */
class BlockArena {
  readonly memory = new Uint8Array(SLOTS * ARENA_BLOCK)
  readonly #slots = new Map<number, number>()
  /** What is in a slot; -1 for nothing. */
  readonly #keys = new Float64Array(SLOTS).fill(-1)
  /** When a slot was looked at last, counted in looks. */
  readonly #looked = new Float64Array(SLOTS).fill(-ARENA_STAY)
  #looks = 0
  #hand = 0

  /** Where the block with that key begins in `memory`; `fill` reads a missing one to the place that it is told. */
  find(key: number, fill: (at: number) => void): number {
    this.#looks++
    const known = this.#slots.get(key)
    if (known !== undefined) {
      this.#looked[known] = this.#looks
      return known * ARENA_BLOCK
    }
    const slot = this.#free()
    fill(slot * ARENA_BLOCK)
    this.#keys[slot] = key
    this.#looked[slot] = this.#looks
    this.#slots.set(key, slot)
    return slot * ARENA_BLOCK
  }

  /** The next slot that nobody looked at lately: there are more slots than looks that count as late. */
  #free(): number {
    while ((this.#looked[this.#hand] ?? 0) > this.#looks - ARENA_STAY) this.#hand = (this.#hand + 1) % SLOTS
    const slot = this.#hand
    this.#hand = (slot + 1) % SLOTS
    this.#slots.delete(this.#keys[slot] ?? -1)
    this.#keys[slot] = -1
    return slot
  }
}

/** One of a thread, made when it is needed. */
let arena: BlockArena | undefined
let nextFile = 0

/** More blocks than any file of ours has; 33 million files fit into a key. */
const MAX_BLOCKS = 2 ** 28

/** One file in the arena of the thread. */
export class ArenaFile {
  readonly #arena = (arena ??= new BlockArena())
  readonly #firstKey = nextFile++ * MAX_BLOCKS
  readonly #sizeBytes: number
  readonly #readInto: ReadInto

  constructor(sizeBytes: number, readInto: ReadInto) {
    this.#sizeBytes = sizeBytes
    this.#readInto = readInto
  }

  /** A range of at most ARENA_BLOCK bytes that lies in the file. */
  read(offset: number, length: number): Uint8Array {
    const block = Math.floor(offset / ARENA_BLOCK)
    const start = offset - block * ARENA_BLOCK
    const { memory } = this.#arena
    const at = this.#find(block) + start
    if (start + length <= ARENA_BLOCK) return memory.subarray(at, at + length)
    const out = new Uint8Array(length)
    const head = ARENA_BLOCK - start
    out.set(memory.subarray(at, at + head))
    const next = this.#find(block + 1)
    out.set(memory.subarray(next, next + length - head), head)
    return out
  }

  #find(block: number): number {
    return this.#arena.find(this.#firstKey + block, at => {
      const position = block * ARENA_BLOCK
      const length = Math.min(ARENA_BLOCK, this.#sizeBytes - position)
      this.#readInto(this.#arena.memory, at, length, position)
    })
  }
}
