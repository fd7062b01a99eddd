import type { ByteSource } from '../common/byte-source.js'
import { InodeReaderV6 } from './inode-reader-v6.js'
import type { InodeReader } from './inode-reader.js'
import { detectFormat } from './superblock.js'
import { InodeReaderV5 } from './v5/inode-reader.js'

/**
 * Reads the inodes of a bootstrap of either version.
 * @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED, RAFS_FIELD, RAFS_TRUNCATED
 */
export function openInodeReader(source: ByteSource): InodeReader {
  const reads = source.brief?.() ?? source
  return detectFormat(source) === 'rafs-v5' ? new InodeReaderV5(reads) : new InodeReaderV6(reads)
}
