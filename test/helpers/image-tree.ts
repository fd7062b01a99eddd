import { createHash } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import { decompress } from '../../src/common/codec.js'
import { digestOf } from '../../src/common/digest.js'
import type { ImageChunk, ImageInode, RafsImage } from '../../src/erofs/image-tree.js'
import type { ExpectedEntry } from './rafs-fixtures.js'

/** Every name of the tree but the root, with its path as bytes of `latin1`. */
export function* walkTree(directory: ImageInode, prefix = ''): Generator<[string, ImageInode]> {
  if (directory.type !== 'directory') return
  for (const [name, inode] of directory.children) {
    yield [prefix + name, inode]
    yield* walkTree(inode, `${prefix}${name}/`)
  }
}

/** Compares the tree, in every field and with the content of files, with what the source layers hold. */
export function treeDifferences(
  image: Pick<RafsImage, 'root'>,
  expected: readonly ExpectedEntry[],
  readChunk: (chunk: ImageChunk) => Uint8Array,
): string[] {
  const tree = new Map(walkTree(image.root))
  const names = new Map<ImageInode, number>()
  for (const inode of tree.values()) names.set(inode, (names.get(inode) ?? 0) + 1)
  const differences: string[] = []
  for (const want of expected) {
    const path = Buffer.from(want.path_hex ?? Buffer.from(want.path ?? '').toString('hex'), 'hex')
    const key = path.toString('latin1')
    const inode = tree.get(key)
    tree.delete(key)
    const got = inode && describe(inode, names.get(inode) ?? 0, readChunk)
    for (const field of new Set([...Object.keys(want), ...Object.keys(got ?? {})])) {
      if (field === 'path' || field === 'path_hex' || (field === 'mode' && want.type === 'l')) continue
      const found = JSON.stringify(got?.[field])
      const wanted = JSON.stringify(sorted(want[field as keyof ExpectedEntry]))
      if (found !== wanted) differences.push(`${key} ${field}: want ${wanted}, got ${found}`)
    }
  }
  return [...differences, ...[...tree.keys()].map(path => `${path} is too many`)]
}

/** Decodes chunks out of plain files, and checks their digests; batches and ciphers are not for it. */
export function chunkReader(open: (blobId: string) => string): {
  read: (chunk: ImageChunk) => Uint8Array
  close: () => void
} {
  const fds = new Map<string, number>()
  const read = (chunk: ImageChunk): Uint8Array => {
    const { blob, compressedSize, uncompressedSize } = chunk
    const fd = fds.get(blob.id) ?? openSync(open(blob.id), 'r')
    fds.set(blob.id, fd)
    const stored = Buffer.alloc(compressedSize)
    readSync(fd, stored, 0, compressedSize, chunk.compressedOffset)
    const raw = compressedSize === uncompressedSize
    const bytes = decompress(raw ? 'none' : blob.compressor, stored, uncompressedSize)
    const digest = Buffer.from(digestOf(blob.digester, bytes)).toString('hex')
    if (digest !== chunk.digest) throw new Error(`chunk ${chunk.index} of ${blob.id} has digest ${digest}`)
    return bytes
  }
  return { read, close: () => fds.forEach(fd => closeSync(fd)) }
}

const LETTERS = {
  regular: 'f',
  directory: 'd',
  symlink: 'l',
  charDevice: 'c',
  blockDevice: 'b',
  fifo: 'p',
  socket: 's',
} as const

function describe(
  inode: ImageInode,
  nlink: number,
  readChunk: (chunk: ImageChunk) => Uint8Array,
): Record<string, unknown> {
  const { type, uid, gid, mtimeSec } = inode
  const seen: Record<string, unknown> = {
    type: LETTERS[type],
    mode: inode.mode.toString(8).padStart(4, '0'),
    uid,
    gid,
    mtime: mtimeSec,
  }
  if (type === 'regular') {
    const hash = createHash('sha256')
    for (const chunk of inode.chunks) hash.update(readChunk(chunk))
    Object.assign(seen, { size: inode.sizeBytes, sha256: hash.digest('hex'), nlink })
  }
  if (type === 'symlink') seen['target'] = Buffer.from(inode.target).toString()
  if (type === 'charDevice' || type === 'blockDevice') seen['rdev'] = [inode.major, inode.minor]
  if (inode.xattrs) {
    const pairs = [...inode.xattrs].map(([name, value]) => [name, Buffer.from(value).toString('hex')])
    seen['xattrs'] = sorted(Object.fromEntries(pairs))
  }
  return seen
}

/** Objects compare without regard to the order of their keys. */
function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
}
