/** The check of a bootstrap: everything that a mount of it could ever look at is read once. */
import type { ByteSource } from '../../common/byte-source.js'
import type { BlobEntry } from '../../erofs/blob-table.js'
import { Bootstrap } from '../../erofs/bootstrap.js'

export interface CheckedImage {
  readonly compressor: string
  readonly blobs: readonly BlobEntry[]
  /** Names of the tree with the root; each name of a hard link counts. */
  readonly names: number
  /** Bytes of all regular files, hard links once. */
  readonly fileBytes: number
  /** Chunks that the files refer to, hard links once. */
  readonly chunks: number
}

/**
 * Reads superblocks, tables and the whole tree: inodes, attributes, link targets, chunk indexes and chunk digests.
 * @throws RAFS_* naming the first field that is wrong
 */
export function checkBootstrap(source: ByteSource): CheckedImage {
  const bootstrap = Bootstrap.open(source)
  let [names, fileBytes, chunks] = [0, 0, 0]
  const seen = new Set<number>()
  for (const { inode } of bootstrap.walk()) {
    names++
    if (seen.has(inode.nid)) continue
    seen.add(inode.nid)
    bootstrap.xattrs(inode)
    if (inode.type === 'symlink') bootstrap.readLink(inode)
    if (inode.type !== 'regular') continue
    fileBytes += inode.size
    for (const _chunk of bootstrap.fileChunks(inode)) chunks++
  }
  for (const { index } of bootstrap.blobs) bootstrap.chunkDigests(index)
  bootstrap.prefetchNids()
  return { compressor: bootstrap.superblock.compressor, blobs: bootstrap.blobs, names, fileBytes, chunks }
}
