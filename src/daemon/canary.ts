import type { CachedBlob } from '../cache/cached-blob.js'
import type { Bootstrap } from '../erofs/bootstrap.js'

/** How many names are looked at before an image is said to have no canary. */
const SEARCH_LIMIT = 200_000

/**
 * A regular file with bytes that are not local, for the prober to read; null when nothing is missing.
 * @param blobs in the order of the device table
 */
export function findCanary(
  bootstrap: Bootstrap,
  blobs: readonly CachedBlob[],
): { path: string; offset: number } | null {
  if (blobs.every(blob => blob.complete)) return null
  let looked = 0
  for (const entry of bootstrap.walk()) {
    if (++looked > SEARCH_LIMIT) break
    if (entry.inode.type !== 'regular') continue
    for (const chunk of bootstrap.fileChunks(entry.inode)) {
      const blob = blobs[chunk.blobIndex]
      if (!blob || blob.isReady(chunk.uncompressedOffset, 1)) continue
      const path = decode(entry.path())
      if (path !== undefined) return { path, offset: chunk.fileOffset }
    }
  }
  return null
}

/** JSON carries text only: a path that is not UTF-8 cannot be the canary. */
function decode(path: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(path)
  } catch {
    return undefined
  }
}
