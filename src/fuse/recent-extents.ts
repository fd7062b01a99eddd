import type { FileExtent, InodeReader } from '../erofs/inode-reader.js'

/** A piece of a file, the size of a few chunks. */
const WINDOW_BYTES = 4 * 1024 * 1024
/** A power of two. */
const WINDOWS = 256
/** The pieces of a window in more are not kept, for a bound of memory: 256 of the others take less than a megabyte. */
const MAX_EXTENTS = 16

interface Window {
  readonly sequence: number
  readonly ino: number
  readonly index: number
  /** Undefined when there are too many. */
  readonly extents: readonly FileExtent[] | undefined
}

/**
 * Where the bytes of files that were read lately are: who reads a file asks for it again and again, in small pieces, and to
 * find each in the bootstrap takes longer than to read it. A bounded number of windows, each in a place of its own; what
 * comes to the same place takes it.
 */
export class RecentExtents {
  readonly #windows: (Window | undefined)[] = new Array<undefined>(WINDOWS).fill(undefined)

  /**
   * As `extents` of the reader.
   * @param sequence - of the image that the reader is of
   */
  find(
    reader: InodeReader,
    sequence: number,
    ino: number,
    offset: number,
    length: number,
  ): readonly FileExtent[] {
    const index = Math.floor(offset / WINDOW_BYTES)
    const start = index * WINDOW_BYTES
    if (offset + length > start + WINDOW_BYTES) return reader.extents(ino, offset, length)
    const place = (ino + index * 7) & (WINDOWS - 1)
    const window = this.#windows[place]
    if (window?.ino === ino && window.index === index && window.sequence === sequence)
      return window.extents
        ? clip(window.extents, offset, offset + length)
        : reader.extents(ino, offset, length)
    const extents = reader.extents(ino, start, WINDOW_BYTES)
    const kept = extents.length <= MAX_EXTENTS ? extents : undefined
    this.#windows[place] = { sequence, ino, index, extents: kept }
    return clip(extents, offset, offset + length)
  }

  /** Forgets everything. */
  clear(): void {
    this.#windows.fill(undefined)
  }
}

function clip(extents: readonly FileExtent[], start: number, end: number): FileExtent[] {
  const clipped: FileExtent[] = []
  for (const extent of extents) {
    const from = Math.max(start, extent.fileOffset)
    const to = Math.min(end, extent.fileOffset + extent.length)
    if (from >= to) continue
    const { fileOffset, blobIndex, offset } = extent
    clipped.push({ fileOffset: from, length: to - from, blobIndex, offset: offset + from - fileOffset })
  }
  return clipped
}
