import * as F from '../../erofs/format.js'
import { partFault } from './parts.js'

const WHOLE_NAMES: ReadonlySet<number> = new Set([2, 3])

/** Checks the attributes of an inode between two offsets. @throws RAFS_FIELD */
export function checkXattrs(bytes: Buffer, start: number, end: number, nid: number): void {
  const wrong = (at: number, field: string, value: number, why: string): Error =>
    partFault('xattr', at, `field ${field} is ${value}: ${why} (of inode ${nid})`)
  const shared = bytes[start + 4] ?? 0
  if (shared !== 0) throw wrong(start + 4, 'shared_count', shared, 'RAFS v6 has no shared xattrs')
  for (let at = start + F.XATTR_HEADER_SIZE; at < end;) {
    const nameLength = bytes[at + F.XATTR_OFF.nameLength] ?? 0
    const index = bytes[at + F.XATTR_OFF.nameIndex] ?? 0
    if (!(index in F.XATTR_PREFIXES))
      throw wrong(at + F.XATTR_OFF.nameIndex, 'name_index', index, '1, 2, 3, 4 or 6 is expected')
    if (WHOLE_NAMES.has(index) !== (nameLength === 0))
      throw wrong(at, 'name_len', nameLength, 'access control lists have no suffix, all others have one')
    const name = at + F.XATTR_ENTRY_SIZE
    const next = name + nameLength + bytes.readUInt16LE(at + F.XATTR_OFF.valueSize)
    if (next > end) throw wrong(at, 'value_size', next - name, 'it ends beyond the attributes')
    const nul = bytes.subarray(name, name + nameLength).indexOf(0)
    if (nul >= 0) throw wrong(name + nul, 'name', 0, 'a name has no NUL')
    at = F.alignUp(next, 4)
  }
}
