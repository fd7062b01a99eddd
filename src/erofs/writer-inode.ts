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
import { type ImageLayout, directoryBlock, entryNames } from './writer-layout.js'
import { isInline } from './writer-space.js'
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

/** What all inodes of a bootstrap are written with. */
export interface InodeContext {
  readonly out: Buffer
  /** Where the metadata area starts. */
  readonly metaOffset: number
  readonly layout: ImageLayout
  readonly blobIndexes: ReadonlyMap<ImageBlob, number>
  readonly chunkSize: number
}

/** Writes one inode with its attributes, its chunk indexes, and the data of a directory or symbolic link. */
export function writeInode(context: InodeContext, index: number, inode: ImageInode): void {
  const { out, metaOffset, layout } = context
  const at = metaOffset + layout.nid(index) * INODE_SLOT_SIZE
  const off = EXTENDED_INODE_OFF
  const xattrSize = xattrAreaSize(inode.xattrs)
  out.writeUInt16LE(xattrCount(xattrSize), at + off.xattrCount)
  out.writeUInt16LE(TYPE_BITS[inode.type] | inode.mode, at + off.mode)
  out.writeUInt32LE(index + 1, at + off.ino)
  out.writeUInt32LE(inode.uid, at + off.uid)
  out.writeUInt32LE(inode.gid, at + off.gid)
  // u64 by name, but the kernel reads it as a signed time.
  writeU64(out, at + off.mtime, inode.mtimeSec)
  out.writeUInt32LE(inode.mtimeNsec, at + off.mtimeNsec)
  out.writeUInt32LE(layout.nlink(index), at + off.nlink)
  writeXattrs(out, at + EXTENDED_INODE_SIZE, inode.xattrs)
  const inodeSize = EXTENDED_INODE_SIZE + xattrSize
  let format: keyof typeof INODE_LAYOUTS = 'flatPlain'

  switch (inode.type) {
    case 'directory':
      format = writeFlat(context, index, inodeSize, encodeDirectory(inode, index, layout))
      break
    case 'symlink':
      format = writeFlat(context, index, inodeSize, inode.target)
      break
    case 'regular':
      format = 'chunkBased'
      writeU64(out, at + off.size, inode.sizeBytes)
      out.writeUInt32LE(chunkFormat(inode, context.chunkSize), at + off.u)
      writeChunkIndexes(out, alignUp(at + inodeSize, CHUNK_INDEX_SIZE), inode, context.blobIndexes)
      break
    case 'charDevice':
    case 'blockDevice':
      out.writeUInt32LE(encodeRdev(inode.major, inode.minor), at + off.u)
      break
    case 'fifo':
    case 'socket':
      break
  }
  out.writeUInt16LE(INODE_EXTENDED | (INODE_LAYOUTS[format] << 1), at + off.format)
}

/** Size and data of a directory or symbolic link; `inodeSize` is with its attributes. */
function writeFlat(
  { out, metaOffset, layout }: InodeContext,
  index: number,
  inodeSize: number,
  data: Uint8Array,
): 'flatInline' | 'flatPlain' {
  const at = metaOffset + layout.nid(index) * INODE_SLOT_SIZE
  const dataBlock = metaOffset / BLOCK_SIZE + layout.dataBlock(index)
  writeU64(out, at + EXTENDED_INODE_OFF.size, data.length)
  out.writeUInt32LE(dataBlock, at + EXTENDED_INODE_OFF.u)
  const inline = isInline(inodeSize, data.length)
  const full = inline ? data.length - (data.length % BLOCK_SIZE) : data.length
  if (full > 0) out.set(data.subarray(0, full), dataBlock * BLOCK_SIZE)
  if (inline) out.set(data.subarray(full), at + inodeSize)
  return inline ? 'flatInline' : 'flatPlain'
}

function encodeDirectory(directory: DirectoryInode, index: number, layout: ImageLayout): Buffer {
  const out = Buffer.alloc(layout.directorySize(index))
  const names = entryNames(directory)
  let child = layout.firstChild(index)
  for (let first = 0, start = 0; first < names.length; start += BLOCK_SIZE) {
    const { count } = directoryBlock(names, first)
    let nameOffset = count * DIRENT_SIZE
    for (let i = 0; i < count; i++) {
      const name = names[first + i] ?? ''
      const inode = layout.inodeOf(name === '.' ? index : name === '..' ? layout.parent(index) : child++)
      const at = start + i * DIRENT_SIZE
      writeU64(out, at + DIRENT_OFF.nid, layout.nid(inode))
      out.writeUInt16LE(nameOffset, at + DIRENT_OFF.nameOffset)
      out[at + DIRENT_OFF.fileType] = FILE_TYPES[layout.inodes[inode]?.type ?? 'unknown']
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
  for (let reach = BLOCK_SIZE; reach < size; reach *= 2) bits++
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
