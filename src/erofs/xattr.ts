/**
 * Inline extended attributes of an inode (EROFS on-disk format, xattrs). RAFS never shares them between inodes.
 */
import type { ByteSource } from '../common/byte-source.js'
import * as F from './format.js'
import type { Inode } from './inode.js'
import { readStruct } from './struct-view.js'

export interface Xattr {
  /** The whole name with its prefix, as bytes: a name may be anything but NUL. */
  readonly name: Uint8Array
  readonly value: Uint8Array
}

/** @throws RAFS_FIELD, RAFS_TRUNCATED */
export function readXattrs(source: ByteSource, inode: Inode): Xattr[] {
  if (inode.xattrSize === 0) return []
  const offset = inode.offset + inode.headerSize
  const view = readStruct(source, offset, inode.xattrSize, `xattrs of inode ${inode.nid}`)
  view.check(view.u8(4) === 0, 4, 'shared_count', view.u8(4), 'RAFS v6 has no shared xattrs')
  const xattrs: Xattr[] = []
  for (let at = F.XATTR_HEADER_SIZE; at < inode.xattrSize;) {
    const nameLength = view.u8(at + F.XATTR_OFF.nameLength)
    const index = view.u8(at + F.XATTR_OFF.nameIndex)
    const valueSize = view.u16(at + F.XATTR_OFF.valueSize)
    const prefix = prefixOf(index)
    if (prefix === undefined)
      throw view.bad(at + F.XATTR_OFF.nameIndex, 'name_index', index, '1, 2, 3, 4 or 6 is expected')
    const start = at + F.XATTR_ENTRY_SIZE
    const end = start + nameLength + valueSize
    view.check(
      end <= inode.xattrSize,
      at,
      'xattr size',
      nameLength + valueSize,
      'it ends beyond the xattr area',
    )
    const suffix = view.bytes.subarray(start, start + nameLength)
    xattrs.push({
      name: Buffer.concat([Buffer.from(prefix), suffix]),
      value: view.slice(start + nameLength, valueSize),
    })
    at = F.alignUp(end, 4)
  }
  return xattrs
}

function prefixOf(index: number): string | undefined {
  return (F.XATTR_PREFIXES as Readonly<Record<number, string>>)[index]
}
