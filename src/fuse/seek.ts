import type { InodeReader } from '../erofs/inode-reader.js'

export const SEEK_DATA = 3
export const SEEK_HOLE = 4
/** Looked at in one step. */
const WINDOW = 256 * 1024 * 1024

/** lseek(2) over the extents of a file: where data, or a hole, begins; the end of the file counts as a hole. */
export function seekExtent(
  reader: Pick<InodeReader, 'attributes' | 'extents'>,
  ino: number,
  offset: number,
  whence: number,
): number | 'ENXIO' | 'EINVAL' {
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return 'EINVAL'
  const { sizeBytes } = reader.attributes(ino)
  for (let at = offset; at < sizeBytes; at += WINDOW) {
    const found = reader
      .extents(ino, at, Math.min(WINDOW, sizeBytes - at))
      .find(extent => (extent.blobIndex === undefined) === (whence === SEEK_HOLE))
    if (found) return Math.max(found.fileOffset, offset)
  }
  return offset < sizeBytes && whence === SEEK_HOLE ? sizeBytes : 'ENXIO'
}
