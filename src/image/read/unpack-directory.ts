import {
  chmodSync,
  closeSync,
  lchownSync,
  linkSync,
  mkdirSync,
  openSync,
  symlinkSync,
  writeSync,
} from 'node:fs'
import { fault } from '../../common/fault.js'
import type { DirectoryInode, ImageInode, RafsImage, RegularInode } from '../../erofs/image-tree.js'
import type { ChunkReader } from './chunk-reader.js'
import type { Unpacked } from './unpack-tar.js'
import { walkTree } from './walk-tree.js'

/** System calls that Node lacks, none of which follows a symbolic link; paths are bytes. */
export interface FileCalls {
  /** Devices, FIFOs and sockets. @param mode - with the type bits */
  makeNode(path: Buffer, mode: number, major: number, minor: number): void
  setXattr(path: Buffer, name: string, value: Uint8Array): void
  setTimes(path: Buffer, seconds: number, nanoseconds: number): void
}

const TYPE_BITS = { fifo: 0o010000, charDevice: 0o020000, blockDevice: 0o060000, socket: 0o140000 } as const
/** PATH_MAX without its NUL. */
const MAX_PATH_BYTES = 4095

/**
 * Makes the tree of an image in a directory, which must be empty, with everything that the image says of it. For root.
 * Directories get their attributes last, so that what stands in them does not change their times.
 * @throws what `ChunkReader.read`, Node's file calls and those given throw
 */
export async function unpackToDirectory(
  image: RafsImage,
  chunks: ChunkReader,
  directory: string,
  calls: FileCalls,
): Promise<Unpacked> {
  const base = Buffer.from(directory)
  const firstNames = new Map<RegularInode, Buffer>()
  const directories: { path: Buffer; inode: DirectoryInode }[] = []
  let [entries, fileBytes] = [0, 0]
  for (const { path: name, inode } of walkTree(image.root)) {
    const path = name === '' ? base : Buffer.concat([base, SLASH, Buffer.from(name, 'latin1')])
    checkLength(path)
    entries++
    if (inode.type === 'directory') {
      if (name !== '') mkdirSync(path, 0o700)
      directories.push({ path, inode })
      continue
    }
    const linked = inode.type === 'regular' ? firstNames.get(inode) : undefined
    if (linked !== undefined) {
      linkSync(linked, path)
      continue
    }
    if (inode.type === 'regular') {
      firstNames.set(inode, path)
      fileBytes += inode.sizeBytes
      await writeFile(path, inode, chunks)
    } else {
      makeSpecial(path, inode, calls)
    }
    setAttributes(path, inode, image.explicitOwners, calls)
  }
  for (const { path, inode } of directories.reverse()) setAttributes(path, inode, image.explicitOwners, calls)
  return { entries, fileBytes, sockets: 0 }
}

const SLASH = Buffer.from('/')

function checkLength(path: Buffer): void {
  if (path.length <= MAX_PATH_BYTES) return
  throw fault(
    'IMAGE_INVALID',
    `the path ${path.toString('utf8', 0, 80)}… has ${path.length} bytes, more than Linux opens: ` +
      'unpack into a tar archive, or a directory with a shorter path',
  )
}

async function writeFile(path: Buffer, inode: RegularInode, chunks: ChunkReader): Promise<void> {
  const fd = openSync(path, 'wx', 0o600)
  try {
    for (const chunk of inode.chunks) {
      const bytes = await chunks.read(chunk)
      for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done)
    }
  } finally {
    closeSync(fd)
  }
}

function makeSpecial(
  path: Buffer,
  inode: Exclude<ImageInode, RegularInode | DirectoryInode>,
  calls: FileCalls,
): void {
  if (inode.type === 'symlink') {
    symlinkSync(Buffer.from(inode.target), path)
    return
  }
  const [major, minor] = 'major' in inode ? [inode.major, inode.minor] : [0, 0]
  calls.makeNode(path, TYPE_BITS[inode.type] | 0o600, major, minor)
}

/** A change of owner takes set-id bits and capabilities away, so it comes first. */
function setAttributes(path: Buffer, inode: ImageInode, owners: boolean, calls: FileCalls): void {
  if (owners) lchownSync(path, inode.uid, inode.gid)
  for (const [name, value] of inode.xattrs ?? []) calls.setXattr(path, name, value)
  if (inode.type !== 'symlink') chmodSync(path, inode.mode)
  calls.setTimes(path, inode.mtimeSec, inode.mtimeNsec)
}
