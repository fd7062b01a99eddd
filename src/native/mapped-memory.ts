import { checked, getLibrary } from './library.js'

/** At least one page of any machine. */
const PAGE_BYTES = 65_536

/** Memory that is a part of a file: what is stored in it is in the file at once, whatever becomes of the process. */
export interface MappedMemory {
  /** May be transferred to another thread. */
  readonly memory: ArrayBuffer
  /** Where the part begins in it. */
  readonly offset: number
}

/**
 * Maps a part of a file for reading and writing. The file must never shrink, even when the memory is not used any more (the
 * allocator may hand its pages out again), and must have its space: a store that finds none ends the process.
 * @param fileOffset - a multiple of the page size, as the length
 * @throws SYSCALL_FAILED
 */
export function mapFile(fd: number, fileOffset: number, length: number): MappedMemory {
  // V8 has no memory of others: it gets some of its own, and the file is put in its place.
  const memory = new ArrayBuffer(length + PAGE_BYTES)
  const offset = checked('mmap', getLibrary().nydus_map_over(Buffer.from(memory), length, fd, fileOffset))
  return { memory, offset }
}
