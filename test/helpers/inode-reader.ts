import type { InodeReader } from '../../src/erofs/inode-reader.js'
import type { DirectoryInode, ImageChunk, ImageInode, RafsImage } from '../../src/erofs/image-tree.js'

export interface ReadEntry {
  readonly name: string
  readonly ino: number
  readonly type: string
  readonly next: number
}

export function entriesOf(reader: InodeReader, directory: number, from = 0): ReadEntry[] {
  const entries: ReadEntry[] = []
  reader.readDirectory(directory, from, (bytes, start, end, ino, type, next) => {
    entries.push({ name: Buffer.from(bytes.subarray(start, end)).toString('latin1'), ino, type, next })
    return true
  })
  return entries
}

/** Where a chunk is in the cache file of its blob. */
export type AddressOf = (chunk: ImageChunk) => number

/** Compares everything that the reader tells, by every way of asking, with the image that was loaded as a whole. */
export function readerDifferences(reader: InodeReader, image: RafsImage, addressOf: AddressOf): string[] {
  const comparison = new Comparison(reader, image, addressOf)
  comparison.directory(reader.rootIno, image.root, '')
  return comparison.differences
}

class Comparison {
  readonly differences: string[] = []
  readonly #reader: InodeReader
  readonly #image: RafsImage
  readonly #addressOf: AddressOf
  readonly #links = new Map<ImageInode, number>()
  #depth = 0

  constructor(reader: InodeReader, image: RafsImage, addressOf: AddressOf) {
    this.#reader = reader
    this.#image = image
    this.#addressOf = addressOf
    this.#count(image.root)
    this.#same('', 'explicitOwners', reader.explicitOwners, image.explicitOwners)
    this.#same('', 'version', reader.version, image.version)
  }

  directory(ino: number, directory: DirectoryInode, path: string): void {
    const reader = this.#reader
    if (this.#depth === 0) this.#inode(ino, directory, '/')
    if (this.#depth === 0) this.#same('/', 'parent', reader.parentOf(ino), ino)
    this.#depth++
    const entries = entriesOf(reader, ino)
    this.#same(path, 'names', entries.map(entry => entry.name).join(), [...directory.children.keys()].join())
    for (const { name, ino: child, type } of entries) {
      const inode = directory.children.get(name)
      if (inode === undefined) continue
      const full = `${path}/${name}`
      this.#same(full, 'type', type, inode.type)
      this.#same(full, 'lookup', reader.lookup(ino, Buffer.from(name, 'latin1')), child)
      for (const other of [`${name}!`, `${name}\xff`, name.slice(0, -1)])
        if (!directory.children.has(other))
          this.#same(full, `lookup of ${other}`, reader.lookup(ino, Buffer.from(other, 'latin1')), undefined)
      this.#inode(child, inode, full)
      if (inode.type !== 'directory') continue
      this.#same(full, 'parent', reader.parentOf(child), ino)
      this.directory(child, inode, full)
    }
  }

  #inode(ino: number, inode: ImageInode, path: string): void {
    const reader = this.#reader
    const got = reader.attributes(ino)
    for (const field of ['type', 'uid', 'gid', 'mtimeSec', 'mtimeNsec'] as const)
      this.#same(path, field, got[field], inode[field])
    this.#same(path, 'mode', got.mode & 0o7777, inode.mode)
    if (inode.type === 'regular') this.#file(ino, inode.sizeBytes, inode.chunks, path)
    if (inode.type === 'regular') this.#same(path, 'nlink', got.nlink, this.#links.get(inode))
    if (inode.type === 'regular') this.#same(path, 'size', got.sizeBytes, inode.sizeBytes)
    if (inode.type === 'symlink') {
      this.#same(path, 'target', hex(reader.readLink(ino)), hex(inode.target))
      this.#same(path, 'size', got.sizeBytes, inode.target.length)
    }
    const device =
      inode.type === 'charDevice' || inode.type === 'blockDevice' ? inode : { major: 0, minor: 0 }
    this.#same(path, 'device', `${got.major}:${got.minor}`, `${device.major}:${device.minor}`)
    this.#same(path, 'xattrs', xattrText(reader.xattrs(ino)), xattrText(inode.xattrs))
    if ((inode.xattrs?.size ?? 0) > 0) this.#same(path, 'hasXattrs', reader.hasXattrs, true)
  }

  /** The whole file, and ranges that begin and end anywhere. */
  #file(ino: number, size: number, chunks: readonly ImageChunk[], path: string): void {
    const { chunkSize } = this.#image
    for (const [offset, length] of [
      [0, size],
      [0, size + 12_345],
      [size >> 1, 1],
      [chunkSize - 1, 2],
      [chunkSize, chunkSize * 2],
      [size >> 2, size >> 1],
      [size, 1],
      [0, 0],
    ] as const) {
      const end = Math.min(offset + length, size)
      let at = offset
      let last = { blobIndex: -1, end: -1 }
      for (const extent of this.#reader.extents(ino, offset, length)) {
        this.#same(path, `extent at ${at}`, extent.fileOffset, at)
        if (extent.blobIndex === last.blobIndex && extent.offset === last.end)
          this.differences.push(`${path}: the extent at ${at} belongs to the one before`)
        for (; at < extent.fileOffset + extent.length;) {
          const chunk = chunks[Math.floor(at / chunkSize)]
          if (chunk === undefined || extent.length <= 0) throw new Error(`${path}: ${at} is not in the file`)
          this.#same(path, `blob at ${at}`, extent.blobIndex, this.#image.blobs.indexOf(chunk.blob))
          const address = extent.offset + at - extent.fileOffset
          this.#same(path, `address of ${at}`, address, this.#addressOf(chunk) + (at % chunkSize))
          at = Math.min(extent.fileOffset + extent.length, at - (at % chunkSize) + chunkSize)
        }
        last = { blobIndex: extent.blobIndex ?? -1, end: extent.offset + extent.length }
      }
      this.#same(path, `extents of ${offset}+${length}`, at, Math.max(end, offset))
    }
  }

  #count(directory: DirectoryInode): void {
    for (const child of directory.children.values()) {
      this.#links.set(child, (this.#links.get(child) ?? 0) + 1)
      if (child.type === 'directory') this.#count(child)
    }
  }

  #same(path: string, field: string, got: unknown, wanted: unknown): void {
    if (got !== wanted) this.differences.push(`${path}: ${field} is ${String(got)}, not ${String(wanted)}`)
  }
}

function xattrText(xattrs: ReadonlyMap<string, Uint8Array> | undefined): string {
  const pairs = [...(xattrs ?? [])].map(([name, value]) => `${name}=${hex(value)}`)
  return pairs.sort().join()
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
