import { fault } from '../../common/fault.js'

/** Records about one entry, keys and values as byte strings; of equal keys the last one counts. */
export type PaxRecords = ReadonlyMap<string, string>

/** The map of a sparse file, as GNU's formats 0.0 (which repeats two keys instead) and 0.1 give it. */
export const SPARSE_MAP = 'GNU.sparse.map'
const SPARSE_OFFSET = 'GNU.sparse.offset'
const SPARSE_LENGTH = 'GNU.sparse.numbytes'

/** Parses PAX records (`LENGTH KEY=VALUE\n`, POSIX.1-2001). @throws TAR_INVALID */
export function parsePaxRecords(bytes: Buffer): PaxRecords {
  const records = new Map<string, string>()
  const sparse: string[] = []
  for (let at = 0; at < bytes.length;) {
    const { key, value, end } = parseRecord(bytes, at)
    if (key === SPARSE_OFFSET || key === SPARSE_LENGTH) {
      if ((key === SPARSE_OFFSET) !== (sparse.length % 2 === 0) || value.includes(','))
        throw malformed(bytes, at)
      sparse.push(value)
    } else {
      records.set(key, value)
    }
    at = end
  }
  if (sparse.length > 0) records.set(SPARSE_MAP, sparse.join(','))
  return records
}

function parseRecord(bytes: Buffer, at: number): { key: string; value: string; end: number } {
  const space = bytes.indexOf(0x20, at)
  const digits = space < 0 ? '' : bytes.toString('latin1', at, Math.min(space, at + 11))
  const end = at + (/^[0-9]{1,10}$/.test(digits) ? Number(digits) : 0)
  const equals = bytes.indexOf(0x3d, space)
  if (end > bytes.length || equals <= space + 1 || equals >= end || bytes[end - 1] !== 0x0a)
    throw malformed(bytes, at)
  const key = bytes.toString('latin1', space + 1, equals)
  const value = bytes.toString('latin1', equals + 1, end - 1)
  if (key.includes('\0')) throw malformed(bytes, at)
  return { key, value, end }
}

function malformed(bytes: Buffer, at: number): Error {
  return fault('TAR_INVALID', `the layer has a malformed PAX record (byte ${at} of ${bytes.length})`)
}

/** A whole decimal number (never -0); NaN for anything else or too large a one. */
export function parseDecimal(text: string): number {
  const value = /^[+-]?[0-9]{1,19}$/.test(text) ? Number(text) + 0 : Number.NaN
  return Number.isSafeInteger(value) ? value : Number.NaN
}

/** Decimal seconds with a fraction; `sec` is rounded down, and NaN where the text is no time. */
export function parsePaxTime(text: string): { sec: number; nsec: number } {
  const [whole = '', fraction = ''] = text.split('.', 2)
  const sec = parseDecimal(whole)
  if (!/^[0-9]*$/.test(fraction)) return { sec: Number.NaN, nsec: 0 }
  const nsec = Number(fraction.slice(0, 9).padEnd(9, '0'))
  if (nsec === 0 || !whole.startsWith('-')) return { sec, nsec }
  return { sec: sec - 1, nsec: 1_000_000_000 - nsec }
}
