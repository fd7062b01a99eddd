import type { ByteStream } from './layer-stream.js'
import { parseDecimal } from './pax-records.js'
import { BLOCK, parseNumber } from './tar-header.js'
import { entryFault } from './tar-names.js'
import { zeros } from './zeros.js'

/** Stored bytes of a sparse file; what lies between them is zeros. */
export interface SparseExtent {
  readonly offset: number
  readonly length: number
}

/** As much as the records of an entry may take. */
export const MAX_MAP_BYTES = 1024 * 1024
const ELEMENT = 24
const HEADER_ELEMENTS = { at: 386, count: 4 }
const EXTENSION_ELEMENTS = { at: 0, count: 21 }
const REAL_SIZE = { at: 483, end: 495 }

/** Old GNU sparse files (`S`): extents in the header and in blocks behind it. */
export class OldSparseMap {
  readonly extents: SparseExtent[] = []
  readonly sizeBytes: number
  /** Whether another block of extents follows. */
  continues = false
  readonly #name: string
  #mapBytes = 0

  constructor(header: Buffer, name: string) {
    this.#name = name
    this.sizeBytes = parseNumber(header, REAL_SIZE.at, REAL_SIZE.end)
    this.#add(header, HEADER_ELEMENTS)
  }

  /** @throws TAR_INVALID */
  addBlock(block: Buffer): void {
    this.#mapBytes += BLOCK
    if (this.#mapBytes > MAX_MAP_BYTES) throw problem(this.#name, 'is a sparse file with too long a map')
    this.#add(block, EXTENSION_ELEMENTS)
  }

  #add(block: Buffer, { at, count }: { at: number; count: number }): void {
    for (let i = 0; i < count; i++) {
      const element = at + i * ELEMENT
      if (block[element] === 0) break
      const offset = parseNumber(block, element, element + 12)
      this.extents.push({ offset, length: parseNumber(block, element + 12, element + 24) })
    }
    this.continues = (block[at + count * ELEMENT] ?? 0) !== 0
  }
}

/** The map of a PAX record, GNU's formats 0.0 and 0.1. @throws TAR_INVALID */
export function parseMapRecord(map: string, count: string, name: string): SparseExtent[] {
  const numbers = map === '' ? [] : map.split(',')
  if (numbers.length !== 2 * parseDecimal(count))
    throw problem(name, 'is a sparse file whose map is not as long as it says')
  return pairs(numbers)
}

const problem = (name: string, sentenceEnd: string): Error => entryFault('TAR_INVALID', name, sentenceEnd)

function pairs(numbers: readonly string[]): SparseExtent[] {
  const extents = []
  for (let i = 0; i + 1 < numbers.length; i += 2)
    extents.push({ offset: parseDecimal(numbers[i] ?? ''), length: parseDecimal(numbers[i + 1] ?? '') })
  return extents
}

/** @throws TAR_INVALID unless the extents lie in the file one after the other and `storedBytes` are just theirs */
export function checkMap(
  extents: readonly SparseExtent[],
  sizeBytes: number,
  storedBytes: number,
  name: string,
): void {
  let end = 0
  let total = 0
  for (const { offset, length } of extents) {
    if (!(offset >= end && length >= 0 && offset + length <= sizeBytes))
      throw problem(name, 'is a sparse file whose map does not fit its size')
    end = offset + length
    total += length
  }
  if (total !== storedBytes)
    throw problem(name, `is a sparse file with ${storedBytes} bytes of data, but a map for ${total}`)
}

/** A file of `sizeBytes` out of its stored bytes and their map. @throws what `stored` throws */
export async function* expandSparse(
  stored: ByteStream,
  extents: readonly SparseExtent[],
  sizeBytes: number,
): AsyncGenerator<Uint8Array> {
  const next = extents[Symbol.iterator]()
  let extent = next.next().value
  let at = 0
  for await (const piece of stored) {
    for (let used = 0; used < piece.length;) {
      while (extent?.length === 0 || (extent && at >= extent.offset + extent.length))
        extent = next.next().value
      if (extent === undefined) return
      yield* zeros(at, extent.offset)
      at = Math.max(at, extent.offset)
      const part = piece.subarray(used, used + extent.offset + extent.length - at)
      yield part
      at += part.length
      used += part.length
    }
  }
  yield* zeros(at, sizeBytes)
}

/**
 * GNU's format 1.0: the map stands before the data, as decimal lines that fill whole blocks.
 * @throws TAR_INVALID, what `stored` throws
 */
export async function* expandSparseWithMap(
  stored: ByteStream,
  storedBytes: number,
  sizeBytes: number,
  name: string,
): AsyncGenerator<Uint8Array> {
  const pieces = stored[Symbol.asyncIterator]()
  const head: Buffer[] = []
  let headBytes = 0
  let lines = 0
  let wanted = 1
  let mapEnd: number | undefined
  while (mapEnd === undefined) {
    const piece = await pieces.next()
    if (piece.done) throw problem(name, 'is a sparse file whose map is cut')
    const bytes = Buffer.from(piece.value.buffer, piece.value.byteOffset, piece.value.length)
    head.push(bytes)
    for (let at = bytes.indexOf(0x0a); at >= 0 && mapEnd === undefined; at = bytes.indexOf(0x0a, at + 1)) {
      if (++lines === 1) wanted = 1 + 2 * lineCount(Buffer.concat(head), name)
      if (lines === wanted) mapEnd = headBytes + at + 1
    }
    headBytes += bytes.length
    if (headBytes > MAX_MAP_BYTES + bytes.length && mapEnd === undefined)
      throw problem(name, 'is a sparse file with too long a map')
  }
  const whole = Buffer.concat(head)
  const extents = pairs(
    whole
      .toString('latin1', 0, mapEnd - 1)
      .split('\n')
      .slice(1),
  )
  const dataStart = Math.ceil(mapEnd / BLOCK) * BLOCK
  checkMap(extents, sizeBytes, storedBytes - dataStart, name)
  yield* expandSparse(dataOf(whole, dataStart, pieces), extents, sizeBytes)
}

function lineCount(head: Buffer, name: string): number {
  const count = parseDecimal(head.toString('latin1', 0, head.indexOf(0x0a)))
  if (!(count >= 0)) throw problem(name, 'is a sparse file whose map has no valid length')
  return count
}

/** What follows the map, which may end between or within pieces. */
async function* dataOf(
  head: Buffer,
  dataStart: number,
  pieces: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  let skip = dataStart
  let piece: Uint8Array = head
  for (;;) {
    if (piece.length > skip) yield piece.subarray(skip)
    skip = Math.max(0, skip - piece.length)
    const next = await pieces.next()
    if (next.done) return
    piece = next.value
  }
}
