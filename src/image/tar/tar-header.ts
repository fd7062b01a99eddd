import { fault } from '../../common/fault.js'

/** A header block of an archive. Names are byte strings; a number is NaN where its field holds none. */
export interface TarHeader {
  /** One byte: `0` a file, NUL the same in the oldest archives, … */
  readonly type: string
  readonly name: string
  readonly linkname: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly sizeBytes: number
  readonly mtimeSec: number
  readonly major: number
  readonly minor: number
  /** True for the format whose sparse files `S` entries are. */
  readonly gnu: boolean
}

export const BLOCK = 512

const TYPE = 156
const SIZE = { at: 124, end: 136 }
const CHECKSUM = { at: 148, end: 156 }
const MAGIC = { at: 257, end: 263 }
const VERSION = { at: 263, end: 265 }
const STAR_TRAILER = { at: 508, end: 512 }
const PREFIX = { at: 345, end: 500, starEnd: 476 }
/** Where GNU has the times of access and change that others have the prefix in. */
const GNU_TIMES = [345, 357]

export function isZeroBlock(block: Buffer): boolean {
  return block.every(byte => byte === 0)
}

/**
 * Reads a header of any of the formats (V7, ustar, pax, star, GNU) with the leniency of Go's archive/tar, which container
 * runtimes read layers with.
 * @throws TAR_INVALID for a wrong checksum
 */
export function parseTarHeader(block: Buffer): TarHeader {
  if (!hasItsChecksum(block))
    throw fault('TAR_INVALID', 'the layer is not a tar archive, or a header of it is damaged')
  const magic = block.toString('latin1', MAGIC.at, MAGIC.end)
  const version = block.toString('latin1', VERSION.at, VERSION.end)
  const ustar = magic === 'ustar\0'
  const gnu = magic === 'ustar ' && version === ' \0'
  const own = text(block, 0, 100)
  const prefix = ustar || gnu ? prefixOf(block, gnu) : ''
  return {
    type: block.toString('latin1', TYPE, TYPE + 1),
    name: prefix === '' ? own : `${prefix}/${own}`,
    linkname: text(block, 157, 257),
    mode: parseNumber(block, 100, 108),
    uid: parseNumber(block, 108, 116),
    gid: parseNumber(block, 116, 124),
    sizeBytes: parseNumber(block, SIZE.at, SIZE.end),
    mtimeSec: parseNumber(block, 136, 148),
    major: ustar || gnu ? parseNumber(block, 329, 337) : 0,
    minor: ustar || gnu ? parseNumber(block, 337, 345) : 0,
    gnu,
  }
}

/** The first part of a long name. Old writers gave GNU headers one, too, where such have two times. */
function prefixOf(block: Buffer, gnu: boolean): string {
  if (!gnu) {
    const star = block.toString('latin1', STAR_TRAILER.at, STAR_TRAILER.end) === 'tar\0'
    return text(block, PREFIX.at, star ? PREFIX.starEnd : PREFIX.end)
  }
  const hasTimes = GNU_TIMES.every(at => block[at] === 0 || !Number.isNaN(parseNumber(block, at, at + 12)))
  if (hasTimes) return ''
  const prefix = text(block, PREFIX.at, PREFIX.end)
  return /^[\x01-\x7f]*$/.test(prefix) ? prefix : ''
}

/** Sums of unsigned bytes are the rule; Sun's tar added them as signed ones. */
function hasItsChecksum(block: Buffer): boolean {
  let sum = 0x20 * (CHECKSUM.end - CHECKSUM.at)
  let high = 0
  for (let i = 0; i < BLOCK; i++) {
    if (i === CHECKSUM.at) i = CHECKSUM.end
    const byte = block[i] as number
    sum += byte
    high += byte >> 7
  }
  const declared = parseOctal(block, CHECKSUM.at, CHECKSUM.end)
  return declared === sum || declared === sum - high * 0x100
}

function text(block: Buffer, at: number, end: number): string {
  const nul = block.indexOf(0, at)
  return block.toString('latin1', at, nul < 0 || nul > end ? end : nul)
}

/** A number in octal digits, or, marked by its first bit, in binary; NaN for what is neither or not a safe integer. */
export function parseNumber(block: Buffer, at: number, end: number): number {
  if (((block[at] ?? 0) & 0x80) === 0) return parseOctal(block, at, end)
  const binary = BigInt(`0x${block.toString('hex', at, end)}`)
  const value = Number(BigInt.asIntN((end - at) * 8 - 1, binary))
  return Number.isSafeInteger(value) ? value : Number.NaN
}

/** Blanks and NULs on both sides are padding; nothing else is 0, as tools leave fields empty that mean nothing. */
function parseOctal(block: Buffer, at: number, end: number): number {
  const isPadding = (byte: number | undefined): boolean => byte === 0x20 || byte === 0
  while (at < end && isPadding(block[at])) at++
  while (end > at && isPadding(block[end - 1])) end--
  let value = 0
  for (; at < end; at++) {
    const byte = block[at] ?? 0
    if (byte === 0) break
    if (byte < 0x30 || byte > 0x37) return Number.NaN
    value = value * 8 + byte - 0x30
  }
  return value
}

/** Plain headers without a size, by type, and the sums of their bytes. */
const FRAMES = { '0': plainHeader('0'), x: plainHeader('x') }

/**
 * The plainest header that frames `sizeBytes` of data: of a file (`0`) or of records about the next entry (`x`). It is
 * good until the next call.
 */
export function encodeFrame(type: '0' | 'x', sizeBytes: number): Buffer {
  const { block, sum } = FRAMES[type]
  const size = block.subarray(SIZE.at, SIZE.end)
  const octal = sizeBytes.toString(8)
  if (octal.length < size.length) {
    size.write(octal.padStart(size.length - 1, '0').padEnd(size.length, '\0'), 'latin1')
  } else {
    size.writeUInt32BE(0x80000000)
    size.writeBigUInt64BE(BigInt(sizeBytes), 4)
  }
  const total = size.reduce((a, b) => a + b, sum)
  block.write(`${total.toString(8).padStart(6, '0')}\0 `, CHECKSUM.at, 'latin1')
  return block
}

function plainHeader(type: '0' | 'x'): { block: Buffer; sum: number } {
  const block = Buffer.alloc(BLOCK)
  block.write('        ', CHECKSUM.at, 'latin1')
  block.write(type, TYPE, 'latin1')
  block.write('ustar\u000000', MAGIC.at, 'latin1')
  return { block, sum: block.reduce((a, b) => a + b, 0) }
}
