/** What the bootstrap of an image says of it, without its tree. */
import { FileSource } from '../common/byte-source.js'
import { Bootstrap } from '../erofs/bootstrap.js'
import { detectFormat } from '../erofs/superblock.js'

/** By its magic numbers; whether the rest is right is found by who reads it. */
export function readRafsVersion(bootstrapPath: string): 5 | 6 {
  return readFrom(bootstrapPath, source => (detectFormat(source) === 'rafs-v5' ? 5 : 6))
}

/** In the order of the device table. @throws RAFS_* for what is no RAFS v6 */
export function readBlobIds(bootstrapPath: string): string[] {
  return readFrom(bootstrapPath, source => Bootstrap.open(source).blobs.map(({ blobId }) => blobId))
}

function readFrom<T>(bootstrapPath: string, read: (source: FileSource) => T): T {
  const source = new FileSource(bootstrapPath)
  try {
    return read(source)
  } finally {
    source.close()
  }
}
