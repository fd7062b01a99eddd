/** Upper bounds of the size classes in which reads are counted, in KiB, exclusive (upstream's). */
const LIMITS_KIB = [1, 4, 16, 64, 128, 512, 1024, Infinity]

export const SIZE_CLASSES = LIMITS_KIB.length

export function sizeClass(bytes: number): number {
  const kib = bytes / 1024
  let found = 0
  while (kib >= (LIMITS_KIB[found] ?? Infinity)) found++
  return found
}
