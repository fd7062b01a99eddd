/** What the files of the storm's images hold: every 16 bytes of a page tell image, file, page and place. */
import { createHash } from 'node:crypto'

export const PAGE = 4096
const WORDS = PAGE / 4
const UNIT_WORDS = 4

export interface FilePlan {
  /** Relative to the image's root. */
  readonly path: string
  readonly file: number
  readonly pages: number
}

export interface ImagePlan {
  readonly image: number
  readonly files: readonly FilePlan[]
}

/** Never a plan of files with one content: neither a page of another image, nor of another file, nor zeros pass. */
export function planImage(image: number, files: number, pages: number): ImagePlan {
  const path = (file: number): string => `data/f${String(file).padStart(3, '0')}`
  return { image, files: Array.from({ length: files }, (_, file) => ({ path: path(file), file, pages })) }
}

export function fillPage(into: Buffer, image: number, file: number, page: number): void {
  const words = new Uint32Array(into.buffer, into.byteOffset, WORDS)
  for (let at = 0; at < WORDS; at += UNIT_WORDS) {
    words[at] = 0x5354_4f52 + image
    words[at + 1] = file
    words[at + 2] = page
    words[at + 3] = ~at
  }
}

export function fileBytes(image: number, { file, pages }: FilePlan): Buffer {
  const bytes = Buffer.alloc(pages * PAGE)
  for (let page = 0; page < pages; page++) fillPage(bytes.subarray(page * PAGE), image, file, page)
  return bytes
}

export function sha256Of(image: number, plan: FilePlan): string {
  return createHash('sha256').update(fileBytes(image, plan)).digest('hex')
}

const ZEROS = Buffer.alloc(PAGE)

export type PageVerdict = 'right' | 'zero' | 'wrong'

/** @param expected memory of a page, overwritten */
export function judgePage(
  got: Buffer,
  expected: Buffer,
  [image, file, page]: [number, number, number],
): PageVerdict {
  fillPage(expected, image, file, page)
  if (got.equals(expected)) return 'right'
  return got.equals(ZEROS) ? 'zero' : 'wrong'
}

/** Numbers in [0, 1) that a seed repeats (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export function shuffle<T>(items: T[], random: () => number): T[] {
  for (let at = items.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1))
    ;[items[at], items[other]] = [items[other]!, items[at]!]
  }
  return items
}
