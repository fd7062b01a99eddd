/**
 * Reading little-endian structs whose content is not to be trusted: every complaint names the field, its value and
 * where it stands.
 */
import type { ByteSource } from '../common/byte-source.js'
import { fault, type Fault, type FaultCode } from '../common/fault.js'

/** The bytes of one struct, and where they came from. */
export class StructView {
  readonly bytes: Uint8Array
  /** Offset of the struct from the start of the file. */
  readonly at: number
  readonly #what: string
  readonly #code: FaultCode
  readonly #number: number | undefined

  /**
   * @param what - the struct's name in complaints
   * @param code - of those complaints
   * @param number - which one of many it is, for complaints
   */
  constructor(bytes: Uint8Array, at: number, what: string, code: FaultCode = 'RAFS_FIELD', number?: number) {
    this.bytes = bytes
    this.at = at
    this.#what = what
    this.#code = code
    this.#number = number
  }

  u8(offset: number): number {
    return this.bytes[offset] ?? 0
  }
  u16(offset: number): number {
    return readU16(this.bytes, offset)
  }
  u32(offset: number): number {
    return readU32(this.bytes, offset)
  }
  /** A u64 that must be a safe integer. */
  u64(offset: number, field: string): number {
    const value = readU64(this.bytes, offset)
    if (value <= Number.MAX_SAFE_INTEGER) return value
    throw this.bad(offset, field, bigOf(this.bytes, offset), TOO_LARGE)
  }
  /** An i64 that must be a safe integer. */
  i64(offset: number, field: string): number {
    const value = readI64(this.bytes, offset)
    if (Number.isSafeInteger(value)) return value
    throw this.bad(offset, field, BigInt.asIntN(64, bigOf(this.bytes, offset)), TOO_LARGE)
  }
  slice(offset: number, length: number): Uint8Array {
    return this.bytes.slice(offset, offset + length)
  }
  /** Text up to the first NUL; bytes beyond ASCII become `\ufffd` or other characters, never an exception. */
  text(offset: number, length: number): string {
    const field = this.bytes.subarray(offset, offset + length)
    const nul = field.indexOf(0)
    return Buffer.from(nul < 0 ? field : field.subarray(0, nul)).toString('utf8')
  }

  /** The fault for a field with an impossible value; `why` says what was expected. */
  bad(offset: number, field: string, value: number | bigint | string, why: string): Fault {
    const what = this.#number === undefined ? this.#what : `${this.#what} ${this.#number}`
    return badField(this.#code, what, this.at + offset, field, value, why)
  }

  /** @throws the fault of `bad` unless `ok` */
  check(ok: boolean, offset: number, field: string, value: number | string, why: string): void {
    if (!ok) throw this.bad(offset, field, value, why)
  }
}

// Numbers in place, for who reads too many to make a view of each: a DataView costs more than most structs. What lies
// outside of the bytes reads as 0: callers know their lengths.

export function readU16(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8)
}

export function readU32(bytes: Uint8Array, at: number): number {
  return (readU16(bytes, at) | (readU16(bytes, at + 2) << 16)) >>> 0
}

/** Exact up to 2^53, above that only known to be above: a BigInt for each field would be slow. */
export function readU64(bytes: Uint8Array, at: number): number {
  return readU32(bytes, at + 4) * 2 ** 32 + readU32(bytes, at)
}

/** Exact for safe integers. */
export function readI64(bytes: Uint8Array, at: number): number {
  return (readU32(bytes, at + 4) | 0) * 2 ** 32 + readU32(bytes, at)
}

/**
 * Below zero where bytes [start, end) come before `other`. Byte by byte: a call of Buffer.compare costs more than most
 * names take.
 */
export function compareBytes(bytes: Uint8Array, start: number, end: number, other: Uint8Array): number {
  const { length } = other
  let at = start
  for (let i = 0; i < length; i++, at++) {
    if (at === end) return -1
    const difference = (bytes[at] ?? 0) - (other[i] ?? 0)
    if (difference !== 0) return difference
  }
  return end - at
}

function bigOf(bytes: Uint8Array, at: number): bigint {
  return (BigInt(readU32(bytes, at + 4)) << 32n) | BigInt(readU32(bytes, at))
}

export const TOO_LARGE = 'larger than any real file'

export function badField(
  code: FaultCode,
  what: string,
  offset: number,
  field: string,
  value: number | bigint | string,
  why: string,
): Fault {
  const shown = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return fault(code, `${what}: field ${field} at byte ${offset} is ${shown}: ${why}`, {
    context: { field, offset, value: typeof value === 'bigint' ? String(value) : value },
  })
}

/**
 * Reads a struct or an area at an offset that is known to be wanted; a file too short for it says what is cut off.
 * @param memory - read into, by sources that can
 */
export function readStruct(
  source: ByteSource,
  offset: number,
  length: number,
  what: string,
  memory?: Uint8Array,
): StructView {
  if (!memory || !source.readInto)
    return new StructView(readBytes(source, offset, length, what), offset, what)
  requireFits(source, offset, length, what)
  const bytes = memory.subarray(0, length)
  source.readInto(bytes, offset)
  return new StructView(bytes, offset, what)
}

/** @throws RAFS_TRUNCATED that names what lies outside the file */
export function readBytes(source: ByteSource, offset: number, length: number, what: string): Uint8Array {
  requireFits(source, offset, length, what)
  return source.read(offset, length)
}

/** @throws RAFS_TRUNCATED that names what lies outside the file */
export function requireFits(source: ByteSource, offset: number, length: number, what: string): void {
  if (fits(source, offset, length)) return
  throw fault(
    'RAFS_TRUNCATED',
    `${what} of ${length} bytes at byte ${offset} lies outside the file of ${source.sizeBytes} bytes: ` +
      'the file is cut short or damaged, fetch it again',
    { context: { field: what, offset, value: length } },
  )
}

/** True when the whole range lies in the file. */
export function fits(source: ByteSource, offset: number, length: number): boolean {
  return offset >= 0 && length >= 0 && offset + length <= source.sizeBytes
}

/** The names of the bits set in `bits`, `bit 0x…` for those without one. */
export function bitNames(bits: number, names: Readonly<Record<string, number>>): string {
  const found: string[] = []
  for (let bit = 0; bit < 32; bit++) {
    const mask = (1 << bit) >>> 0
    if ((bits & mask) === 0) continue
    const name = Object.keys(names).find(key => names[key] === mask)
    found.push(name ?? `bit 0x${mask.toString(16)}`)
  }
  return found.join(', ')
}
