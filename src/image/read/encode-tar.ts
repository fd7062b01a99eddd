/** Headers of a PAX archive (POSIX pax interchange format), with what GNU tar and containerd add to it. */
import { isAscii, isUtf8 } from 'node:buffer'

/** An entry to write. Names are byte strings. */
export interface TarItem {
  /** Path from the root of the archive; of a directory with a slash at its end. */
  readonly name: string
  readonly type: TarItemType
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly mtimeSec: number
  readonly mtimeNsec: number
  /** Of the data that follows; 0 for all but regular files. */
  readonly sizeBytes: number
  /** Target of a link, else empty. */
  readonly linkName: string
  /** Device numbers, 0 for all but devices. */
  readonly major: number
  readonly minor: number
  readonly xattrs?: ReadonlyMap<string, Uint8Array>
}

export type TarItemType = keyof typeof TYPE_FLAGS

const TYPE_FLAGS = {
  regular: '0',
  hardlink: '1',
  symlink: '2',
  charDevice: '3',
  blockDevice: '4',
  directory: '5',
  fifo: '6',
} as const
const PAX_FLAG = 'x'
const PAX_NAME = 'PaxHeader'

export const TAR_BLOCK = 512
const NAME_BYTES = 100
/** Most that fits in octal digits: of a size or time, and of an id. */
const MAX_LONG = 0o77777777777
const MAX_SHORT = 0o7777777

/**
 * The header of an entry, with a PAX header before it where the entry has what an old header cannot hold: long names,
 * names beyond ASCII, large ids and sizes, other times than whole seconds from 1970 to 2242, extended attributes.
 */
export function encodeTarHeader(item: TarItem): Buffer {
  const records = paxRecords(item)
  const own = ustarHeader(item, TYPE_FLAGS[item.type])
  if (records === '') return own
  const body = Buffer.alloc(Math.ceil(records.length / TAR_BLOCK) * TAR_BLOCK)
  body.write(records, 'latin1')
  const pax = { ...PLAIN, name: PAX_NAME, sizeBytes: records.length }
  return Buffer.concat([ustarHeader(pax, PAX_FLAG), body, own])
}

/** What ends an archive. */
export function tarEnd(): Buffer {
  return Buffer.alloc(2 * TAR_BLOCK)
}

/** Bytes of zeros that follow data of this size. */
export function tarPadding(sizeBytes: number): number {
  return (TAR_BLOCK - (sizeBytes % TAR_BLOCK)) % TAR_BLOCK
}

type UstarFields = Omit<TarItem, 'type' | 'mtimeNsec' | 'xattrs'>

const PLAIN: UstarFields = {
  name: '',
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtimeSec: 0,
  sizeBytes: 0,
  linkName: '',
  major: 0,
  minor: 0,
}

/** What does not fit stands in the PAX header, and here is cut or 0. */
function ustarHeader(item: UstarFields, typeFlag: string): Buffer {
  const header = Buffer.alloc(TAR_BLOCK)
  const octal = (value: number, at: number, width: number, max: number): void => {
    const shown = value >= 0 && value <= max ? value : 0
    header.write(shown.toString(8).padStart(width - 1, '0'), at, 'latin1')
  }
  header.write(item.name.slice(0, NAME_BYTES), 0, 'latin1')
  octal(item.mode & 0o7777, 100, 8, MAX_SHORT)
  octal(item.uid, 108, 8, MAX_SHORT)
  octal(item.gid, 116, 8, MAX_SHORT)
  octal(item.sizeBytes, 124, 12, MAX_LONG)
  octal(item.mtimeSec, 136, 12, MAX_LONG)
  header.write(typeFlag, 156, 'latin1')
  header.write(item.linkName.slice(0, NAME_BYTES), 157, 'latin1')
  header.write('ustar\x0000', 257, 'latin1')
  octal(item.major, 329, 8, MAX_SHORT)
  octal(item.minor, 337, 8, MAX_SHORT)
  header.fill(' ', 148, 156)
  let sum = 0
  for (const byte of header) sum += byte
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return header
}

function paxRecords(item: TarItem): string {
  let records = ''
  const add = (key: string, value: string): void => {
    records += paxRecord(key, value)
  }
  const { name, linkName, mtimeSec, mtimeNsec } = item
  const longNames = [name, linkName].filter(needsPax)
  // Names are UTF-8 unless this says that they are bytes.
  if (longNames.some(long => !isUtf8(Buffer.from(long, 'latin1')))) add('hdrcharset', 'BINARY')
  if (needsPax(name)) add('path', name)
  if (needsPax(linkName)) add('linkpath', linkName)
  if (item.sizeBytes > MAX_LONG) add('size', String(item.sizeBytes))
  if (item.uid > MAX_SHORT) add('uid', String(item.uid))
  if (item.gid > MAX_SHORT) add('gid', String(item.gid))
  if (mtimeNsec !== 0 || mtimeSec < 0 || mtimeSec > MAX_LONG) add('mtime', paxTime(mtimeSec, mtimeNsec))
  for (const [key, value] of [...(item.xattrs ?? [])].sort(([a], [b]) => (a < b ? -1 : 1)))
    add(`SCHILY.xattr.${escapeKey(key)}`, Buffer.from(value).toString('latin1'))
  return records
}

/** A short name of bytes that are no text stands in the old header, where every reader takes it as it is. */
function needsPax(name: string): boolean {
  if (name.length > NAME_BYTES) return true
  const bytes = Buffer.from(name, 'latin1')
  return !isAscii(bytes) && isUtf8(bytes)
}

/** GNU tar's way with `=`, which ends the key of a record. */
function escapeKey(key: string): string {
  return /=|%3D|%25/.test(key) ? key.replaceAll('%', '%25').replaceAll('=', '%3D') : key
}

function paxTime(seconds: number, nanoseconds: number): string {
  // Nanoseconds count forward, the digits of a negative time backward.
  const back = seconds < 0 && nanoseconds > 0
  const whole = back ? -(seconds + 1) : Math.abs(seconds)
  const fraction = back ? 1_000_000_000 - nanoseconds : nanoseconds
  const digits = fraction === 0 ? '' : `.${String(fraction).padStart(9, '0').replace(/0+$/, '')}`
  return `${seconds < 0 ? '-' : ''}${whole}${digits}`
}

/** The length in front of a record counts its own digits. */
function paxRecord(key: string, value: string): string {
  const rest = key.length + value.length + 3
  let length = rest + String(rest).length
  if (String(length).length !== String(rest).length) length = rest + String(length).length
  return `${length} ${key}=${value}\n`
}
