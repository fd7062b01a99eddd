/** As big as the biggest chunk. Never written, so that it takes no memory. */
const ZEROS = new Uint8Array(16 * 1024 * 1024)

/**
 * The bytes of a hole, which `isHole` knows again. Pieces end at multiples of the biggest chunk size, so that every chunk
 * that lies in a hole lies in one piece.
 */
export function* zeros(fromOffset: number, toOffset: number): Generator<Uint8Array> {
  for (let at = fromOffset; at < toOffset;) {
    const end = Math.min(toOffset, at - (at % ZEROS.length) + ZEROS.length)
    yield ZEROS.subarray(0, end - at)
    at = end
  }
}

/** Whether the bytes are those of a hole; then nobody need look at them. */
export function isHole(bytes: Uint8Array): boolean {
  return bytes.buffer === ZEROS.buffer
}
