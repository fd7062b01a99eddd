import { type Fault, type FaultCode, fault } from '../../common/fault.js'
import { MAX_NAME_BYTES } from '../../erofs/format.js'

/** Longest path that any process could name: PATH_MAX without its NUL. */
const MAX_PATH_BYTES = 4095

/** Prefix of the marker files of a layer. */
export const WHITEOUT_PREFIX = '.wh.'
export const OPAQUE_MARKER = '.wh..wh..opq'
/** Prefix of markers that belong to other storage drivers and mean nothing here. */
export const WHITEOUT_META_PREFIX = '.wh..wh.'

/** A byte-string name as a person reads it, quoted and shortened. */
export function quoteName(name: string): string {
  const text = JSON.stringify(Buffer.from(name, 'latin1').toString('utf8'))
  return text.length > 200 ? `${text.slice(0, 200)}…"` : text
}

/** A fault about one entry of an archive, which it names. */
export function entryFault(code: FaultCode, name: string, problem: string): Fault {
  const entry = quoteName(name)
  return fault(code, `the layer's entry ${entry} ${problem}`, { context: { entry } })
}

/**
 * The components of an archive's path (a byte string), without empty ones and `.`; none for the root,
 * which an empty name is, too.
 * `entry` is the entry's own name where the path is the target of its link.
 * @throws TAR_UNSAFE for absolute paths, `..` and whiteouts of a directory itself, TAR_INVALID for impossible names
 */
export function splitPath(path: string, entry = path): string[] {
  const about = path === entry ? '' : `links to ${quoteName(path)}, which `
  if (path.startsWith('/'))
    throw entryFault(
      'TAR_UNSAFE',
      entry,
      `${about}is an absolute path: rebuild the layer with relative names`,
    )
  if (path.includes('\0')) throw entryFault('TAR_INVALID', entry, `${about}has a NUL byte in its name`)
  if (path.length > MAX_PATH_BYTES)
    throw entryFault('TAR_INVALID', entry, `${about}is a path of ${path.length} bytes (4,095 at most)`)
  const parts = path.split('/').filter(part => part !== '' && part !== '.')
  for (const part of parts) {
    if (part === '..') throw entryFault('TAR_UNSAFE', entry, `${about}leads out of the tree by ".."`)
    if (part.length > MAX_NAME_BYTES)
      throw entryFault('TAR_INVALID', entry, `${about}has a name of ${part.length} bytes (255 at most)`)
    if (part.startsWith(WHITEOUT_PREFIX) && ['', '.', '..'].includes(part.slice(WHITEOUT_PREFIX.length)))
      throw entryFault('TAR_UNSAFE', entry, `${about}is a whiteout of nothing or of a directory itself`)
  }
  return parts
}
