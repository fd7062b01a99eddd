import type { BlobLayout, Extent } from './layout.js'

/** An extent up to this size in store is small: the round trip that brings it costs more than its bytes. */
const SMALL_BYTES = 32 * 1024
/** Stored bytes that come along on each side of a small extent. */
const REACH_BYTES = 64 * 1024

/**
 * The chunks that are worth bringing in the same request as this extent: of many small files that are read in no order
 * (the modules of a program, say), each would wait for a round trip of its own. Empty for an extent that is not small.
 */
export function neighbourhoodOf(
  layout: Pick<BlobLayout, 'chunkCount' | 'extentOf'>,
  extent: Extent,
): number[] {
  if (extent.storedLength > SMALL_BYTES) return []
  const chunks: number[] = []
  const start = extent.storedOffset
  const end = start + extent.storedLength
  for (let at = extent.firstChunk - 1; at >= 0;) {
    const near = layout.extentOf(at)
    if (near.storedOffset > start || start - near.storedOffset > REACH_BYTES) break
    chunks.push(near.firstChunk)
    at = near.firstChunk - 1
  }
  chunks.reverse()
  for (let at = extent.firstChunk + extent.chunkCount; at < layout.chunkCount;) {
    const near = layout.extentOf(at)
    if (near.storedOffset < end || near.storedOffset + near.storedLength - end > REACH_BYTES) break
    chunks.push(near.firstChunk)
    at = near.firstChunk + near.chunkCount
  }
  return chunks
}
