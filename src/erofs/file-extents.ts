import type { FileExtent } from './inode-reader.js'

/** Appends a piece of a file, as part of the last one where it follows it in the same cache file. */
export function addExtent(
  extents: FileExtent[],
  fileOffset: number,
  length: number,
  blobIndex: number | undefined,
  offset: number,
): void {
  const last = extents.at(-1)
  if (last !== undefined && last.blobIndex === blobIndex && last.offset + last.length === offset)
    extents[extents.length - 1] = { ...last, length: last.length + length }
  else extents.push({ fileOffset, length, blobIndex, offset })
}
