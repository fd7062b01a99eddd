import { hasErrno } from '../common/fault.js'
import { cBytes, checked, getLibrary } from './library.js'

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
  const file = cBytes(path)
  for (const name of listNames(file)) {
    const found = readValue(file, name)
    if (found) xattrs.set(name, found)
  }
  return xattrs
}

/**
 * Sets an extended attribute of a file, not followed where it is a symbolic link.
 * @param name - the whole name, a byte string
 * @throws SYSCALL_FAILED: EPERM, EOPNOTSUPP, ENOSPC
 */
export function setXattr(path: Buffer, name: string, bytes: Uint8Array): void {
  // Room for an empty value too: it must have an address.
  const copy = Buffer.alloc(bytes.length + 1)
  copy.set(bytes)
  checked(
    'lsetxattr',
    getLibrary().nydus_set_xattr(cBytes(path), cBytes(Buffer.from(name, 'latin1')), copy, bytes.length),
    `${name} of ${path.toString()}`,
  )
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
    getLibrary().nydus_get_xattr(file, cBytes(Buffer.from(name, 'latin1')), value, MAX_BYTES),
  )
  try {
    checked('lgetxattr', length, `${name} of ${file.toString('utf8', 0, file.length - 1)}`)
  } catch (err) {
    if (hasErrno(err, 'ENODATA')) return undefined
    throw err
  }
  return Uint8Array.from(value.subarray(0, length))
}
