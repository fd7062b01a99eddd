import {
  type BigIntStats,
  closeSync,
  lstatSync,
  openSync,
  readSync,
  readdirSync,
  readlinkSync,
} from 'node:fs'
import { asFault, fault } from '../../common/fault.js'
import type { LayerSource } from './image-builder.js'
import type { LayerEntry } from './layer-tree.js'
import { quoteName } from '../tar/tar-names.js'
import type { TarAttributes } from '../tar/tar-reader.js'

/** The extended attributes of a file by its path, not followed where it is a symbolic link. */
export type XattrReader = (path: Buffer) => ReadonlyMap<string, Uint8Array>

const READ_BYTES = 1024 * 1024
const SLASH = Buffer.from('/')
/** The low bits of a mode that are not its type. */
const PERMISSIONS = 0o7777n
const S_IFMT = 0o170000n
const TYPES = new Map([
  [0o010000n, 'fifo'],
  [0o020000n, 'charDevice'],
  [0o040000n, 'directory'],
  [0o060000n, 'blockDevice'],
  [0o100000n, 'regular'],
  [0o120000n, 'symlink'],
  [0o140000n, 'socket'],
] as const)

/**
 * The tree below a directory, as it is on disk: all entries of a directory in the order of their names' bytes, then those
 * of each directory in it. Further names of a regular file become links to its first. The root's own time says when
 * somebody made the directory, not what is in it, so that it reads as 0.
 */
export class DirectorySource implements LayerSource {
  readonly #root: Buffer
  readonly #readXattrs: XattrReader

  constructor(directory: string, readXattrs: XattrReader) {
    this.#root = Buffer.from(directory)
    this.#readXattrs = readXattrs
  }

  /** @throws FILE_UNREADABLE for what cannot be read, or changes while it is */
  // eslint-disable-next-line @typescript-eslint/require-await -- a source of entries may wait, this one need not
  async *entries(): AsyncGenerator<LayerEntry> {
    const stats = lstat(this.#root)
    if (!stats.isDirectory())
      throw fault(
        'FILE_UNREADABLE',
        `${this.#root.toString()} is not a directory: name one, or say its --type`,
      )
    const root = this.#attributes(this.#root, [], stats)
    yield { ...root, type: 'directory', mtimeSec: 0, mtimeNsec: 0 }
    const links = new Map<string, readonly string[]>()
    const waiting: { file: Buffer; path: readonly string[] }[] = [{ file: this.#root, path: [] }]
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const below: typeof waiting = []
      for (const name of listDirectory(next.file)) {
        const file = Buffer.concat([next.file, SLASH, name])
        const path = [...next.path, name.toString('latin1')]
        const entry = this.#entry(file, path, links)
        if (entry.type === 'directory') below.push({ file, path })
        yield entry
      }
      // The last one pushed is the next one taken.
      waiting.push(...below.reverse())
    }
  }

  #entry(file: Buffer, path: readonly string[], links: Map<string, readonly string[]>): LayerEntry {
    const stats = lstat(file)
    const type = TYPES.get((stats.mode & S_IFMT) as 0o100000n)
    if (type === undefined)
      throw fault('FILE_UNREADABLE', `${file.toString()} is of no type that an image holds: leave it out`)
    if (type === 'regular' && stats.nlink > 1n) {
      const key = `${stats.dev}:${stats.ino}`
      const target = links.get(key)
      if (target) return { ...this.#attributes(file, path, stats), type: 'hardlink', target }
      links.set(key, path)
    }
    const attributes = this.#attributes(file, path, stats)
    switch (type) {
      case 'regular':
        return {
          ...attributes,
          type,
          sizeBytes: Number(stats.size),
          body: readFile(file, Number(stats.size)),
        }
      case 'symlink':
        return { ...attributes, type, target: readlinkSync(file, 'buffer') }
      case 'charDevice':
      case 'blockDevice':
        return { ...attributes, type, ...deviceOf(stats.rdev) }
      case 'directory':
      case 'fifo':
      case 'socket':
        return { ...attributes, type }
    }
  }

  #attributes(file: Buffer, path: readonly string[], stats: BigIntStats): TarAttributes {
    const nanoseconds = stats.mtimeNs
    const mtimeNsec = Number(((nanoseconds % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n)
    const xattrs = this.#readXattrs(file)
    return {
      path,
      name: path.join('/'),
      mode: Number(stats.mode & PERMISSIONS),
      uid: Number(stats.uid),
      gid: Number(stats.gid),
      mtimeSec: Number((nanoseconds - BigInt(mtimeNsec)) / 1_000_000_000n),
      mtimeNsec,
      ...(xattrs.size > 0 && { xattrs }),
    }
  }
}

function lstat(file: Buffer): BigIntStats {
  try {
    return lstatSync(file, { bigint: true })
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `${file.toString()} cannot be read`)
  }
}

function listDirectory(directory: Buffer): Buffer[] {
  try {
    return readdirSync(directory, 'buffer').sort((a, b) => Buffer.compare(a, b))
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `the directory ${directory.toString()} cannot be read`)
  }
}

/** The numbers of the C library's `dev_t`. */
function deviceOf(rdev: bigint): { major: number; minor: number } {
  return {
    major: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n)),
    minor: Number((rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n)),
  }
}

/** Exactly `sizeBytes` of a file; a piece is valid until the next one is asked for. */
// eslint-disable-next-line @typescript-eslint/require-await -- reads of local files do not wait
async function* readFile(file: Buffer, sizeBytes: number): AsyncGenerator<Uint8Array> {
  let fd: number
  try {
    fd = openSync(file, 'r')
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `${file.toString()} cannot be read`)
  }
  try {
    const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, sizeBytes))
    for (let left = sizeBytes; left > 0;) {
      const length = readSync(fd, buffer, 0, Math.min(buffer.length, left), null)
      if (length === 0)
        throw fault(
          'FILE_UNREADABLE',
          `${quoteName(file.toString('latin1'))} became shorter while it was read: build from a tree that nobody writes`,
        )
      left -= length
      yield buffer.subarray(0, length)
    }
  } finally {
    closeSync(fd)
  }
}
