import type { ReadyBlocks } from './cached-blob.js'

/** Size in bytes of a block of the ready map: the EROFS block, and the granule of every event. */
export const READY_BLOCK = 4096

/** A map with no block ready, in shared memory. @param sizeBytes size of the uncompressed address space */
export function createReadyBlocks(sizeBytes: number): ReadyBlocks {
  const blocks = Math.ceil(sizeBytes / READY_BLOCK)
  return new Int32Array(new SharedArrayBuffer(Math.ceil(blocks / 32) * 4))
}

/** True when every block that [offset, offset + length) touches is ready; what lies beyond the end counts as ready. */
export function rangeReady(ready: ReadyBlocks, sizeBytes: number, offset: number, length: number): boolean {
  const last = Math.ceil(Math.min(offset + length, sizeBytes) / READY_BLOCK)
  let block = Math.floor(offset / READY_BLOCK)
  while (block < last) {
    const word = block >> 5
    const mask = wordMask(block, last)
    if ((Atomics.load(ready, word) & mask) !== mask) return false
    block = (word + 1) << 5
  }
  return true
}

/** Marks every block that [offset, offset + length) touches. Callers pass whole chunks, which start at a block. */
export function markRangeReady(ready: ReadyBlocks, offset: number, length: number): void {
  const last = Math.ceil((offset + length) / READY_BLOCK)
  let block = Math.floor(offset / READY_BLOCK)
  while (block < last) {
    const word = block >> 5
    Atomics.or(ready, word, wordMask(block, last))
    block = (word + 1) << 5
  }
}

/** Takes back every block that [offset, offset + length) touches. */
export function clearRangeReady(ready: ReadyBlocks, offset: number, length: number): void {
  const last = Math.ceil((offset + length) / READY_BLOCK)
  for (let block = Math.floor(offset / READY_BLOCK); block < last; block++)
    Atomics.and(ready, block >> 5, ~wordMask(block, block + 1))
}

/** The bits of blocks [block, last) that lie in the 32-bit word of `block`. */
function wordMask(block: number, last: number): number {
  const from = block & 31
  const to = Math.min(last - (block - from), 32)
  const upper = to === 32 ? -1 : (1 << to) - 1
  return upper & (-1 << from)
}
