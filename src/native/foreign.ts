/**
 * Calls of C functions through the FFI, with memory that is allocated once per function.
 *
 * The FFI's own wrapper allocates five or more Buffers a call and keeps about 100 bytes of each call for ever (its
 * table of addresses only forgets a Buffer that was seen once): a daemon that answers a million READs would grow by
 * 100 MB. This one takes a tenth of the time and keeps nothing.
 */
import { createRequire } from 'node:module'

export type CType = 'int32' | 'uint32' | 'int64' | 'uint64' | 'pointer'
/** A `pointer` is a Buffer, which C reads or writes during the call only. */
export type Argument<T extends CType> = T extends 'pointer' ? Buffer | null : number
export type Arguments<T extends readonly CType[]> = { [I in keyof T]: Argument<T[I]> }
export type ForeignFunction = (...values: (Buffer | number | null)[]) => number

interface Ffi {
  readonly types: Record<string, object>
  readonly CIF: (result: object, types: readonly object[]) => Buffer
  readonly DynamicLibrary: new (path: string) => { get(symbol: string): Buffer }
}
interface Bindings {
  ffi_call(cif: Buffer, code: Buffer, result: Buffer, argumentPointers: Buffer): void
}

const SLOT = 8
const require = createRequire(import.meta.url)

/**
 * Opens a shared object; it stays open. Not for workers: the FFI crashes when one ends.
 * @returns a function that binds a symbol of it, or throws when the library has none of that name
 * @throws whatever the loader says
 */
export function openForeignLibrary(
  path: string,
): (symbol: string, result: CType, types: readonly CType[]) => ForeignFunction {
  const ffi = require('ffi-napi') as Ffi
  const bindings = require('ffi-napi/lib/bindings') as Bindings
  const library = new ffi.DynamicLibrary(path)
  // A pointer travels like an integer of its size.
  const typeOf = (type: CType): object => ffi.types[type === 'pointer' ? 'uint64' : type]!
  return (symbol, result, types) => {
    const code = library.get(symbol)
    const cif = ffi.CIF(typeOf(result), types.map(typeOf))
    const slots = Buffer.alloc(types.length * SLOT)
    const pointers = Buffer.alloc(types.length * SLOT)
    types.forEach((_, i) => pointers.writeBigUInt64LE(addressOf(slots) + BigInt(i * SLOT), i * SLOT))
    const returned = Buffer.alloc(SLOT)
    return (...values) => {
      types.forEach((type, i) => writeArgument(slots, i * SLOT, type, values[i]!))
      // Read again below, so that no collector takes a Buffer while C uses it.
      inUse = values
      bindings.ffi_call(cif, code, returned, pointers)
      inUse.length = 0
      return result === 'int64' ? Number(returned.readBigInt64LE(0)) : returned.readInt32LE(0)
    }
  }
}

let inUse: unknown[] = []

function writeArgument(slots: Buffer, at: number, type: CType, value: Buffer | number | null): void {
  // Node would write 0 for NaN: the standard input, where it is a descriptor.
  if (typeof value === 'number' && !Number.isInteger(value)) throw new RangeError(`${value} is no integer`)
  if (typeof value !== 'number') slots.writeBigUInt64LE(value === null ? 0n : addressOf(value), at)
  else if (type === 'int32') slots.writeInt32LE(value, at)
  else if (type === 'uint32') slots.writeUInt32LE(value, at)
  else if (type === 'int64') slots.writeBigInt64LE(BigInt(value), at)
  else slots.writeBigUInt64LE(BigInt(value), at)
}

/** Address of the buffer's first byte. Ask once per Buffer, see above, and not for one that shares its memory. */
export function addressOf(buffer: Buffer): bigint {
  const ref = require('ref-napi') as { address: (buffer: Buffer) => number }
  return BigInt(ref.address(buffer))
}
