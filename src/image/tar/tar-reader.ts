import type { Extract } from 'tar-stream'
import { asFault } from '../../common/fault.js'
import type { ByteStream } from './layer-stream.js'
import { type RawHeader, createByteExactExtract } from './tar-extract.js'
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
const BLOCK = 512
const MAX_ID = 2 ** 32 - 2
const MAX_TARGET_BYTES = 4095

/**
 * The entries of a tar archive in order. A body that is not read is skipped.
 * @throws TAR_INVALID, TAR_UNSAFE, TAR_UNSUPPORTED, and whatever the source throws
 */
export async function* readTar(source: ByteStream): AsyncGenerator<TarEntry> {
  const { extract, takeRecordBytes } = createByteExactExtract()
  let sourceFailure: unknown
  let ended = false
  const feeding = feed(source, extract, () => ended).catch((err: unknown) => {
    sourceFailure = err
    extract.destroy(asFault(err))
  })
  // What the source threw is not the archive's fault.
  const explain = (err: unknown): unknown =>
    sourceFailure ?? asFault(err, 'TAR_INVALID', 'the layer is not a valid tar archive, or it is cut')
  let previousEnd = 0
  try {
    for await (const entry of extract) {
      const header = entry.header as unknown as RawHeader
      const zeroBytes = header.byteOffset - BLOCK - takeRecordBytes() - previousEnd
      // Two blocks of zeros end an archive; what stands behind them no other reader would see.
      if (zeroBytes >= 2 * BLOCK) {
        ended = true
        break
      }
      if (zeroBytes !== 0) throw entryFault('TAR_INVALID', header.name, 'follows a lone block of zeros')
      const size = header.type === 'directory' ? 0 : header.size
      previousEnd = header.byteOffset + Math.ceil(size / BLOCK) * BLOCK
      yield toTarEntry(header, readBody(entry as ByteStream, explain))
      entry.resume()
    }
  } catch (err) {
    throw explain(err)
  } finally {
    extract.destroy(null)
    await feeding
  }
  // Behind the archive's end the source may still say that its digest is wrong.
  if (ended && sourceFailure !== undefined) throw asFault(sourceFailure)
}

/** Gives the source to the extractor, and what stands behind an archive's end to nobody. */
async function feed(source: ByteStream, extract: Extract, isEnded: () => boolean): Promise<void> {
  for await (const piece of source) {
    if (isEnded()) continue
    if (extract.destroyed) return
    if (!extract.write(piece)) await drained(extract)
  }
  extract.end(null)
}

async function* readBody(body: ByteStream, explain: (err: unknown) => unknown): AsyncGenerator<Uint8Array> {
  try {
    yield* body
  } catch (err) {
    throw explain(err)
  }
}

function drained(extract: Extract): Promise<void> {
  return new Promise(resolve => {
    const done = (): void => {
      extract.removeListener('drain', done)
      extract.removeListener('close', done)
      resolve()
    }
    extract.on('drain', done)
    extract.on('close', done)
  })
}

function toTarEntry(header: RawHeader, body: ByteStream): TarEntry {
  const { name } = header
  const pax = header.pax ?? {}
  if (Object.keys(pax).some(key => key.startsWith('GNU.sparse.')))
    throw entryFault('TAR_UNSUPPORTED', name, 'is a sparse file: rebuild the layer without --sparse')
  const path = splitPath(name)
  const xattrs = xattrsOf(pax)
  const attributes: TarAttributes = {
    path,
    name,
    mode: integer(header.mode, 'mode', name) & 0o7777,
    uid: idOf(pax['uid'], header.uid, 'user id', name),
    gid: idOf(pax['gid'], header.gid, 'group id', name),
    ...mtimeOf(pax['mtime'], header.mtime, name),
    ...(xattrs.size > 0 ? { xattrs } : {}),
  }
  switch (header.type) {
    case 'file':
    case 'contiguous-file':
      // The oldest archives mark a directory by a trailing slash alone.
      if (name.endsWith('/')) return { ...attributes, type: 'directory' }
      return { ...attributes, type: 'regular', sizeBytes: integer(header.size, 'size', name), body }
    case 'directory':
      return { ...attributes, type: 'directory' }
    case 'link':
      return { ...attributes, type: 'hardlink', target: splitPath(header.linkname ?? '', name) }
    case 'symlink':
      return { ...attributes, type: 'symlink', target: symlinkTarget(header.linkname ?? '', name) }
    case 'character-device':
      return { ...attributes, type: 'charDevice', ...deviceOf(header) }
    case 'block-device':
      return { ...attributes, type: 'blockDevice', ...deviceOf(header) }
    case 'fifo':
      return { ...attributes, type: 'fifo' }
    case null:
      throw entryFault(
        'TAR_UNSUPPORTED',
        name,
        'has a type that is not supported (old GNU sparse and multi-volume entries are such)',
      )
  }
}

function xattrsOf(pax: Record<string, string>): Map<string, Uint8Array> {
  const xattrs = new Map<string, Uint8Array>()
  for (const [key, value] of Object.entries(pax)) {
    if (key.startsWith(XATTR_KEY)) xattrs.set(key.slice(XATTR_KEY.length), Buffer.from(value, 'latin1'))
  }
  return xattrs
}

function integer(value: number | undefined, what: string, name: string): number {
  if (value === undefined || !Number.isSafeInteger(value) || value < 0)
    throw entryFault('TAR_INVALID', name, `has no valid ${what}`)
  return value
}

function idOf(pax: string | undefined, header: number | undefined, what: string, name: string): number {
  const id = integer(pax === undefined ? header : Number(pax), what, name)
  if (id > MAX_ID)
    throw entryFault('TAR_INVALID', name, `has the ${what} ${id}: 4,294,967,294 is the highest`)
  return id
}

function deviceOf(header: RawHeader): { major: number; minor: number } {
  const major = integer(header.devmajor, 'device number', header.name)
  const minor = integer(header.devminor, 'device number', header.name)
  if (major > 0xfff || minor > 0xfffff)
    throw entryFault('TAR_INVALID', header.name, `has the impossible device number ${major}:${minor}`)
  return { major, minor }
}

function symlinkTarget(target: string, name: string): Uint8Array {
  if (target === '' || target.includes('\0') || target.length > MAX_TARGET_BYTES)
    throw entryFault(
      'TAR_INVALID',
      name,
      'is a symbolic link whose target is empty, too long or has a NUL byte',
    )
  return Buffer.from(target, 'latin1')
}

/** PAX times are decimal seconds with a fraction; the header's are whole seconds. */
function mtimeOf(
  pax: string | undefined,
  header: Date | undefined,
  name: string,
): { mtimeSec: number; mtimeNsec: number } {
  if (pax !== undefined) {
    const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(pax)
    if (!match) throw entryFault('TAR_INVALID', name, 'has no valid modification time')
    const whole = Number(match[2])
    const nsec = Number((match[3] ?? '').slice(0, 9).padEnd(9, '0'))
    if (match[1] !== '-') return { mtimeSec: whole, mtimeNsec: nsec }
    return nsec === 0
      ? { mtimeSec: 0 - whole, mtimeNsec: 0 }
      : { mtimeSec: -whole - 1, mtimeNsec: 1_000_000_000 - nsec }
  }
  const seconds = (header?.getTime() ?? 0) / 1000
  if (!Number.isSafeInteger(seconds)) throw entryFault('TAR_INVALID', name, 'has no valid modification time')
  // A negative time in a header is a two's complement, whose 1 tar-stream forgets to add. (So -1 reads as 0.)
  return { mtimeSec: seconds < 0 ? seconds - 1 : seconds, mtimeNsec: 0 }
}
