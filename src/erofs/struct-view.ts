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
  readonly #view: DataView

  /** @param what - the struct's name in complaints. @param code - the code of those complaints. */
  constructor(bytes: Uint8Array, at: number, what: string, code: FaultCode = 'RAFS_FIELD') {
    this.bytes = bytes
    this.at = at
    this.#what = what
    this.#code = code
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  u8(offset: number): number {
    return this.#view.getUint8(offset)
  }
  u16(offset: number): number {
    return this.#view.getUint16(offset, true)
  }
  u32(offset: number): number {
    return this.#view.getUint32(offset, true)
  }
  /** A u64 that must be a safe integer. Made of two halves, since a BigInt for each field is slow. */
  u64(offset: number, field: string): number {
    const value = this.#view.getUint32(offset + 4, true) * 2 ** 32 + this.#view.getUint32(offset, true)
    if (value <= Number.MAX_SAFE_INTEGER) return value
    throw this.bad(offset, field, this.#view.getBigUint64(offset, true), TOO_LARGE)
  }
  /** An i64 that must be a safe integer. */
  i64(offset: number, field: string): number {
    const value = this.#view.getInt32(offset + 4, true) * 2 ** 32 + this.#view.getUint32(offset, true)
    if (Number.isSafeInteger(value)) return value
    throw this.bad(offset, field, this.#view.getBigInt64(offset, true), TOO_LARGE)
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
    return badField(this.#code, this.#what, this.at + offset, field, value, why)
  }

  /** @throws the fault of `bad` unless `ok` */
  check(ok: boolean, offset: number, field: string, value: number | string, why: string): void {
    if (!ok) throw this.bad(offset, field, value, why)
  }
}

const TOO_LARGE = 'larger than any real file'

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

/** Reads a struct or an area at an offset that is known to be wanted; a file too short for it says what is cut off. */
export function readStruct(source: ByteSource, offset: number, length: number, what: string): StructView {
  return new StructView(readBytes(source, offset, length, what), offset, what)
}

/** @throws RAFS_TRUNCATED that names what lies outside the file */
export function readBytes(source: ByteSource, offset: number, length: number, what: string): Uint8Array {
  if (!fits(source, offset, length)) {
    throw fault(
      'RAFS_TRUNCATED',
      `${what} of ${length} bytes at byte ${offset} lies outside the file of ${source.sizeBytes} bytes: ` +
        'the file is cut short or damaged, fetch it again',
      { context: { field: what, offset, value: length } },
    )
  }
  return source.read(offset, length)
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
