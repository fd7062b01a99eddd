import {
  BLOCK_SIZE,
  CHUNK_FORMAT_INDEXES,
  CHUNK_INDEX_OFF,
  CHUNK_INDEX_SIZE,
  DIRENT_OFF,
  DIRENT_SIZE,
  EXTENDED_INODE_OFF,
  EXTENDED_INODE_SIZE,
  FILE_TYPES,
  INODE_EXTENDED,
  INODE_LAYOUTS,
  INODE_SLOT_SIZE,
  alignUp,
} from './format.js'
import type { DirectoryInode, ImageBlob, ImageInode, RegularInode } from './image-tree.js'
import { type ImageLayout, type PlacedInode, directoryBlock, entryNames } from './writer-layout.js'
import { writeU64 } from './write-u64.js'
import { writeXattrs, xattrAreaSize, xattrCount } from './writer-xattr.js'

/** Type bits of `st_mode`. */
export const TYPE_BITS = {
  fifo: 0o010000,
  charDevice: 0o020000,
  directory: 0o040000,
  blockDevice: 0o060000,
  regular: 0o100000,
  symlink: 0o120000,
  socket: 0o140000,
} as const satisfies Record<ImageInode['type'], number>

/** Writes one inode with its attributes, its chunk indexes, and the data of a directory or symbolic link. */
export function writeInode(
  out: Buffer,
  metaOffset: number,
  placed: PlacedInode,
  layout: ImageLayout,
  blobIndexes: ReadonlyMap<ImageBlob, number>,
  chunkSize: number,
): void {
  const { inode } = placed
  const at = metaOffset + (placed.offset ?? 0)
  const off = EXTENDED_INODE_OFF
  const xattrSize = xattrAreaSize(inode.xattrs)
  out.writeUInt16LE(INODE_EXTENDED | (layoutOf(placed) << 1), at + off.format)
  out.writeUInt16LE(xattrCount(xattrSize), at + off.xattrCount)
  out.writeUInt16LE(TYPE_BITS[inode.type] | inode.mode, at + off.mode)
  out.writeUInt32LE(placed.ino, at + off.ino)
  out.writeUInt32LE(inode.uid, at + off.uid)
  out.writeUInt32LE(inode.gid, at + off.gid)
  // u64 by name, but the kernel reads it as a signed time.
  writeU64(out, at + off.mtime, inode.mtimeSec)
  out.writeUInt32LE(inode.mtimeNsec, at + off.mtimeNsec)
  out.writeUInt32LE(placed.nlink, at + off.nlink)
  writeXattrs(out, at + EXTENDED_INODE_SIZE, inode.xattrs)
  const after = at + EXTENDED_INODE_SIZE + xattrSize

  switch (inode.type) {
    case 'directory':
      writeFlat(out, metaOffset, placed, after, encodeDirectory(inode, placed, layout))
      break
    case 'symlink':
      writeFlat(out, metaOffset, placed, after, inode.target)
      break
    case 'regular':
      writeU64(out, at + off.size, inode.sizeBytes)
      out.writeUInt32LE(chunkFormat(inode, chunkSize), at + off.u)
      writeChunkIndexes(out, alignUp(after, CHUNK_INDEX_SIZE), inode, blobIndexes)
      break
    case 'charDevice':
    case 'blockDevice':
      out.writeUInt32LE(encodeRdev(inode.major, inode.minor), at + off.u)
      break
    case 'fifo':
    case 'socket':
      break
  }
}

function layoutOf(placed: PlacedInode): number {
  if (placed.inode.type === 'regular') return INODE_LAYOUTS.chunkBased
  return placed.flat?.inline ? INODE_LAYOUTS.flatInline : INODE_LAYOUTS.flatPlain
}

function writeFlat(
  out: Buffer,
  metaOffset: number,
  placed: PlacedInode,
  tailAt: number,
  data: Uint8Array,
): void {
  const { dataOffset = 0, inline = false } = placed.flat ?? {}
  const at = metaOffset + (placed.offset ?? 0)
  const dataAt = metaOffset + dataOffset
  writeU64(out, at + EXTENDED_INODE_OFF.size, data.length)
  out.writeUInt32LE(Math.floor(dataAt / BLOCK_SIZE), at + EXTENDED_INODE_OFF.u)
  const full = inline ? data.length - (data.length % BLOCK_SIZE) : data.length
  out.set(data.subarray(0, full), dataAt)
  out.set(data.subarray(full), tailAt)
}

function encodeDirectory(directory: DirectoryInode, placed: PlacedInode, layout: ImageLayout): Buffer {
  const out = Buffer.alloc(placed.flat?.dataSize ?? 0)
  const names = entryNames(directory)
  for (let first = 0, start = 0; first < names.length; start += BLOCK_SIZE) {
    const { count } = directoryBlock(names, first)
    let nameOffset = count * DIRENT_SIZE
    for (let i = 0; i < count; i++) {
      const name = names[first + i] ?? ''
      const inode =
        name === '.' ? directory : name === '..' ? placed.flat?.parent : directory.children.get(name)
      if (inode === undefined) continue
      const at = start + i * DIRENT_SIZE
      writeU64(out, at + DIRENT_OFF.nid, (layout.placed.get(inode)?.offset ?? 0) / INODE_SLOT_SIZE)
      out.writeUInt16LE(nameOffset, at + DIRENT_OFF.nameOffset)
      out[at + DIRENT_OFF.fileType] = FILE_TYPES[inode.type]
      out.write(name, start + nameOffset, 'latin1')
      nameOffset += name.length
    }
    first += count
  }
  return out
}

function writeChunkIndexes(
  out: Buffer,
  offset: number,
  inode: RegularInode,
  blobIndexes: ReadonlyMap<ImageBlob, number>,
): void {
  inode.chunks.forEach((chunk, i) => {
    const at = offset + i * CHUNK_INDEX_SIZE
    const device = (blobIndexes.get(chunk.blob) ?? 0) + 1
    out.writeUInt16LE(chunk.index & 0xffff, at + CHUNK_INDEX_OFF.chunkLow)
    out.writeUInt16LE(device | ((chunk.index >>> 16) << 8), at + CHUNK_INDEX_OFF.device)
    out.writeUInt32LE(chunk.uncompressedOffset / BLOCK_SIZE, at + CHUNK_INDEX_OFF.block)
  })
}

/**
 * The kernel's chunk size of a file: the image's, or, where the chunks of a longer file lie one after the other in one
 * blob, a size that covers it whole, so that the kernel maps it as one extent (rafs.md 1.7).
 */
function chunkFormat(inode: RegularInode, chunkSize: number): number {
  const size = inode.sizeBytes > chunkSize && isContiguous(inode, chunkSize) ? inode.sizeBytes : chunkSize
  let bits = 0
  while (BLOCK_SIZE * 2 ** bits < size) bits++
  return CHUNK_FORMAT_INDEXES | bits
}

function isContiguous({ chunks }: RegularInode, chunkSize: number): boolean {
  return chunks.every((chunk, i) => {
    const previous = chunks[i - 1]
    return (
      previous === undefined ||
      (chunk.blob === previous.blob && chunk.uncompressedOffset === previous.uncompressedOffset + chunkSize)
    )
  })
}

/** The 32-bit device number of the kernel's `new_encode_dev`. */
export function encodeRdev(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) >>> 0
}
