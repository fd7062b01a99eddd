/** A copy of `bytes` with one little-endian field replaced. */
export function patched(
  bytes: Uint8Array,
  offset: number,
  width: 1 | 2 | 4 | 8,
  value: number | bigint,
): Buffer {
  const copy = Buffer.from(bytes)
  if (width === 8) copy.writeBigUInt64LE(BigInt(value), offset)
  else copy.writeUIntLE(Number(value), offset, width)
  return copy
}
