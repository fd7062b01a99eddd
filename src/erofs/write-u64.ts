/**
 * Writes a safe integer as 64 bits in two halves, which is many times faster than by way of a BigInt. Negative numbers
 * become what a reader of an i64 expects.
 */
export function writeU64(out: Buffer, at: number, value: number): void {
  out.writeUInt32LE(value >>> 0, at)
  out.writeInt32LE(Math.floor(value / 2 ** 32) | 0, at + 4)
}
