import { asFault } from '../../common/fault.js'
import { ArchiveHeaders, type EntryHeader } from './archive-headers.js'
import type { ByteStream } from './layer-stream.js'
import { DEFAULT_LIMITS, type LayerLimits } from './limits.js'
import { type PaxRecords, parsePaxTime } from './pax-records.js'
import { expandSparse, expandSparseWithMap } from './sparse.js'
import { createExtract, feed } from './tar-extract.js'
import { entryFault, splitPath } from './tar-names.js'

/** One entry of a layer, checked. Names are byte strings. */
export type TarEntry = TarAttributes &
  (
    | { readonly type: 'regular'; readonly sizeBytes: number; readonly body: ByteStream }
    | { readonly type: 'hardlink'; readonly target: readonly string[] }
    | { readonly type: 'symlink'; readonly target: Uint8Array }
    | { readonly type: 'charDevice' | 'blockDevice'; readonly major: number; readonly minor: number }
    | { readonly type: 'directory' }
    | { readonly type: 'fifo' }
  )

export interface TarAttributes {
  /** Components from the root of the tree; none for the root itself. */
  readonly path: readonly string[]
  /** The name as it stands in the archive, for messages. */
  readonly name: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly mtimeSec: number
  readonly mtimeNsec: number
  readonly xattrs?: ReadonlyMap<string, Uint8Array>
}

const XATTR_KEY = 'SCHILY.xattr.'
const NO_XATTRS: ReadonlyMap<string, Uint8Array> = new Map()
const MAX_ID = 2 ** 32 - 2
const MAX_TARGET_BYTES = 4095

/**
 * The entries of a tar archive in order: what container runtimes accept, and some more (see {@link ArchiveHeaders}). A
 * body that is not read is skipped; the holes of a sparse file come as pieces that `isHole` knows.
 * @throws TAR_INVALID, TAR_UNSAFE, TAR_UNSUPPORTED, IMAGE_TOO_LARGE, and whatever the source throws
 */
export async function* readTar(
  source: ByteStream,
  limits: Pick<LayerLimits, 'maxBytes'> = DEFAULT_LIMITS,
): AsyncGenerator<TarEntry> {
  const headers = new ArchiveHeaders()
  let failure: unknown
  const extract = createExtract(headers, err => (failure ??= err))
  const feeding = feed(source, extract, headers).catch((err: unknown) => {
    failure ??= err
    extract.destroy(asFault(err))
  })
  const explain = (err: unknown): unknown =>
    failure ?? asFault(err, 'TAR_INVALID', 'the layer is not a valid tar archive')
  let fileBytes = 0
  try {
    for await (const data of extract) {
      const entry = toTarEntry(headers.entry, readData(data as ByteStream, explain))
      if (entry.type === 'regular') fileBytes += entry.sizeBytes
      if (fileBytes > limits.maxBytes)
        throw entryFault(
          'IMAGE_TOO_LARGE',
          entry.name,
          `brings the layer's files to more than ${limits.maxBytes} bytes: raise --max-layer-size if you trust it`,
        )
      yield entry
      data.resume()
    }
  } catch (err) {
    throw explain(err)
  } finally {
    extract.destroy(null)
    await feeding
  }
  // Behind the archive's end the source may still say that its digest is wrong.
  if (failure !== undefined) throw asFault(failure)
}

async function* readData(data: ByteStream, explain: (err: unknown) => unknown): AsyncGenerator<Uint8Array> {
  try {
    yield* data
  } catch (err) {
    throw explain(err)
  }
}

function toTarEntry(header: EntryHeader, data: ByteStream): TarEntry {
  const { name, linkname } = header
  const path = splitPath(name)
  const mode = integer(header.mode, 'mode', name) & 0o7777
  const uid = idOf(header.uid, 'user id', name)
  const gid = idOf(header.gid, 'group id', name)
  const mtime = mtimeOf(header)
  const mtimeSec = integer(mtime.sec, 'modification time', name)
  const mtimeNsec = mtime.nsec
  const xattrs = xattrsOf(header.records)
  const attributes: TarAttributes = { path, name, mode, uid, gid, mtimeSec, mtimeNsec, xattrs }
  switch (header.type) {
    case '0':
    case '7': {
      const type = 'regular'
      const { sizeBytes, body } = contentOf(header, data)
      // In one piece: objects put together from parts become dictionaries, and there are many files.
      return { type, path, name, mode, uid, gid, mtimeSec, mtimeNsec, xattrs, sizeBytes, body }
    }
    case '1':
      if (linkname === '') throw entryFault('TAR_INVALID', name, 'is a hard link to nothing')
      return { ...attributes, type: 'hardlink', target: splitPath(linkname, name) }
    case '2':
      return { ...attributes, type: 'symlink', target: symlinkTarget(linkname, name) }
    case '3':
      return { ...attributes, type: 'charDevice', ...deviceOf(header) }
    case '4':
      return { ...attributes, type: 'blockDevice', ...deviceOf(header) }
    case '5':
      return { ...attributes, type: 'directory' }
    case '6':
      return { ...attributes, type: 'fifo' }
    default:
      throw entryFault(
        'TAR_UNSUPPORTED',
        name,
        `has the type ${JSON.stringify(header.type)}, which no container runtime reads`,
      )
  }
}

function contentOf(header: EntryHeader, data: ByteStream): { sizeBytes: number; body: ByteStream } {
  const { name, sparse, storedBytes } = header
  const sizeBytes = integer(header.sizeBytes, 'size', name)
  if (sizeBytes < 0) throw entryFault('TAR_INVALID', name, 'has a negative size')
  if (sparse === undefined) return { sizeBytes, body: data }
  const body =
    sparse === 'inData'
      ? expandSparseWithMap(data, storedBytes, sizeBytes, name)
      : expandSparse(data, sparse, sizeBytes)
  return { sizeBytes, body }
}

function xattrsOf(records: PaxRecords): ReadonlyMap<string, Uint8Array> {
  if (records.size === 0) return NO_XATTRS
  const xattrs = new Map<string, Uint8Array>()
  for (const [key, value] of records) {
    if (key.startsWith(XATTR_KEY)) xattrs.set(key.slice(XATTR_KEY.length), ownBytes(value))
  }
  return xattrs
}

function integer(value: number, what: string, name: string): number {
  if (!Number.isSafeInteger(value)) throw entryFault('TAR_INVALID', name, `has no valid ${what}`)
  return value
}

/** Negative ids are those of systems whose ids have a sign: -2 is nobody. */
function idOf(value: number, what: string, name: string): number {
  const id = integer(value, what, name)
  if (id > MAX_ID || id === -1 || id < -(2 ** 31))
    throw entryFault('TAR_INVALID', name, `has the ${what} ${id}: 4,294,967,294 is the highest`)
  return id >>> 0
}

function deviceOf({ major, minor, name }: EntryHeader): { major: number; minor: number } {
  if (!(major >= 0 && major <= 0xfff && minor >= 0 && minor <= 0xfffff))
    throw entryFault('TAR_INVALID', name, `has the impossible device number ${major}:${minor}`)
  return { major, minor }
}

function symlinkTarget(target: string, name: string): Uint8Array {
  if (target === '' || target.includes('\0') || target.length > MAX_TARGET_BYTES)
    throw entryFault(
      'TAR_INVALID',
      name,
      'is a symbolic link whose target is empty, too long or has a NUL byte',
    )
  return ownBytes(target)
}

/** The bytes of a byte string in memory of their own: a small `Buffer` would keep the 8 KiB it was cut from. */
function ownBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i)
  return bytes
}

function mtimeOf(header: EntryHeader): { sec: number; nsec: number } {
  const record = header.records.get('mtime')
  return record ? parsePaxTime(record) : { sec: header.mtimeSec, nsec: 0 }
}
