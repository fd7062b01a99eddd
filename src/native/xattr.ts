import { hasErrno } from '../common/fault.js'
import { checked, getLibrary } from './library.js'

/** The kernel's limits of a list of names and of a value. */
const MAX_BYTES = 65536

const names = Buffer.alloc(MAX_BYTES)
const value = Buffer.alloc(MAX_BYTES)

/**
 * The extended attributes of a file, not followed where it is a symbolic link: whole names as byte strings (`latin1`).
 * Empty where the file system knows none.
 * @param path without a NUL; bytes, for file names need not be UTF-8
 * @throws SYSCALL_FAILED: ENOENT, EACCES
 */
export function readXattrs(path: Buffer): Map<string, Uint8Array> {
  const xattrs = new Map<string, Uint8Array>()
  const file = terminated(path)
  for (const name of listNames(file)) {
    const found = readValue(file, name)
    if (found) xattrs.set(name, found)
  }
  return xattrs
}

function listNames(file: Buffer): string[] {
  const length = Number(getLibrary().nydus_list_xattrs(file, names, MAX_BYTES))
  if (length === 0) return []
  try {
    checked('llistxattr', length, `of ${file.toString('utf8', 0, file.length - 1)}`)
  } catch (err) {
    if (hasErrno(err, 'EOPNOTSUPP')) return []
    throw err
  }
  return names.toString('latin1', 0, length - 1).split('\0')
}

/** Undefined when it went since it was listed. */
function readValue(file: Buffer, name: string): Uint8Array | undefined {
  const length = Number(
    getLibrary().nydus_get_xattr(file, terminated(Buffer.from(name, 'latin1')), value, MAX_BYTES),
  )
  try {
    checked('lgetxattr', length, `${name} of ${file.toString('utf8', 0, file.length - 1)}`)
  } catch (err) {
    if (hasErrno(err, 'ENODATA')) return undefined
    throw err
  }
  return Uint8Array.from(value.subarray(0, length))
}

/** Of its own memory, not of Node's pool: its address is asked for. */
function terminated(bytes: Buffer): Buffer {
  const out = Buffer.alloc(bytes.length + 1)
  bytes.copy(out)
  return out
}
