import { fault } from '../../common/fault.js'
import type { DirectoryInode, ImageInode, InodeAttributes, RegularInode } from '../../erofs/image-tree.js'
import { splitXattrName, xattrProblem } from '../../erofs/writer-xattr.js'
import type { LayerLimits } from '../tar/limits.js'
import { entryFault, quoteName } from '../tar/tar-names.js'
import type { TarAttributes, TarEntry } from '../tar/tar-reader.js'

/** An entry of a layer: of its archive, or of the directory it is built from. */
export type LayerEntry = TarEntry | (TarAttributes & { readonly type: 'socket' })

/** A directory with the attributes of one that nothing describes. */
export function newDirectory(): DirectoryInode {
  return {
    type: 'directory',
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
    implicit: true,
    children: new Map(),
  }
}

/** As many links as Linux follows on a path. */
const MAX_LINKS = 40

/** The tree of one layer as its archive describes it, entry by entry. Whiteouts stay ordinary files in it. */
export class LayerTree {
  readonly root = newDirectory()
  /** Extended attributes that no Linux file system of images holds, left out. */
  droppedXattrs = 0
  readonly #limits: LayerLimits
  #entries = 0
  #metadataBytes = 0

  constructor(limits: LayerLimits) {
    this.#limits = limits
  }

  /**
   * Adds an entry; a later one of the same path replaces an earlier one, but directories keep their children.
   * `chunks` are those of a regular file.
   * @throws TAR_UNSAFE, TAR_INVALID, TAR_UNSUPPORTED, IMAGE_TOO_LARGE
   */
  add(entry: LayerEntry, chunks: RegularInode['chunks']): void {
    this.#count(entry)
    const attributes = this.#attributes(entry)
    const name = entry.path.at(-1)
    if (name === undefined) {
      // Container runtimes ignore what is not one.
      if (entry.type === 'directory') describeDirectory(this.root, attributes)
      return
    }
    const parent = this.#parentOf(entry)
    if (entry.type === 'directory') {
      const known = parent.children.get(name)
      const directory = known?.type === 'directory' ? known : newDirectory()
      describeDirectory(directory, attributes)
      parent.children.set(ownCopy(name), directory)
      return
    }
    parent.children.set(ownCopy(name), this.#inode(entry, attributes, chunks))
  }

  /** Inodes are made at once: millions of objects put together from parts take three times the memory. */
  #inode(
    entry: Exclude<LayerEntry, { type: 'directory' }>,
    attributes: InodeAttributes,
    chunks: RegularInode['chunks'],
  ): ImageInode {
    const { mode, uid, gid, mtimeSec, mtimeNsec, xattrs } = attributes
    let inode: ImageInode
    switch (entry.type) {
      case 'hardlink':
        return this.#linkTarget(entry, attributes)
      case 'regular': {
        const { sizeBytes } = entry
        inode = { type: 'regular', mode, uid, gid, mtimeSec, mtimeNsec, sizeBytes, chunks }
        break
      }
      case 'symlink':
        inode = { type: 'symlink', mode, uid, gid, mtimeSec, mtimeNsec, target: entry.target }
        break
      case 'charDevice':
      case 'blockDevice': {
        const { type, major, minor } = entry
        inode = { type, mode, uid, gid, mtimeSec, mtimeNsec, major, minor }
        break
      }
      case 'fifo':
      case 'socket':
        inode = { type: entry.type, mode, uid, gid, mtimeSec, mtimeNsec }
        break
    }
    if (xattrs) inode.xattrs = xattrs
    return inode
  }

  /**
   * The inode a hard link shares, which takes on the attributes of the link's entry as it does where containers are
   * unpacked; links to anything but a regular file become copies, as the format wants it.
   */
  #linkTarget(entry: TarAttributes & { target: readonly string[] }, attributes: InodeAttributes): ImageInode {
    const target = entry.target.join('/')
    if (target === entry.path.join('/'))
      throw entryFault('TAR_INVALID', entry.name, 'is a hard link to itself')
    const parent = this.#walk(entry.target.slice(0, -1), false)
    const name = entry.target.at(-1)
    const inode =
      name === undefined ? this.root : typeof parent === 'string' ? undefined : parent.children.get(name)
    if (inode === undefined)
      throw entryFault(
        'TAR_INVALID',
        entry.name,
        `is a hard link to ${quoteName(target)}, which this layer does not hold before it; container runtimes ` +
          'refuse it, too: rebuild the layer with the file in it',
      )
    if (inode.type === 'directory')
      throw entryFault('TAR_UNSAFE', entry.name, `is a hard link to the directory ${quoteName(target)}`)
    describeAgain(inode, attributes)
    return inode.type === 'regular' ? inode : { ...inode }
  }

  /** The directory that an entry lies in; it and its parents are made where the layer has not described them yet. */
  #parentOf(entry: TarAttributes): DirectoryInode {
    const parent = this.#walk(entry.path.slice(0, -1), true)
    if (typeof parent === 'string') throw entryFault('TAR_UNSAFE', entry.name, `lies below ${parent}`)
    return parent
  }

  /**
   * The directory of a path, or what on it is none. A symbolic link on the way is followed within the tree, as container
   * runtimes do, but only to a directory that this layer holds: everything else would be a way out.
   */
  #walk(path: readonly string[], make: boolean): DirectoryInode | string {
    const directories = [this.root]
    const problem = this.#step(directories, path, make, { left: MAX_LINKS })
    return problem ?? directories.at(-1) ?? this.root
  }

  /** Follows `path` from the last of `directories`, which begin at the root; returns what is no directory on it. */
  #step(
    directories: DirectoryInode[],
    path: readonly string[],
    make: boolean,
    links: { left: number },
  ): string | undefined {
    for (const part of path) {
      if (part === '' || part === '.') continue
      if (part === '..') {
        directories.pop()
        if (directories.length === 0) return 'the root of the tree'
        continue
      }
      const parent = directories.at(-1) ?? this.root
      const next = parent.children.get(part) ?? (make ? this.#addDirectory(parent, part) : undefined)
      if (next?.type === 'directory') {
        directories.push(next)
      } else if (next?.type === 'symlink' && links.left-- > 0) {
        const target = Buffer.from(next.target).toString('latin1')
        if (target.startsWith('/')) directories.splice(1)
        if (this.#step(directories, target.split('/'), false, links) !== undefined)
          return `the symbolic link ${quoteName(part)} to ${quoteName(target)}, which is no directory of this layer`
      } else {
        return `${quoteName(part)}, which is not a directory`
      }
    }
    return undefined
  }

  #addDirectory(parent: DirectoryInode, name: string): DirectoryInode {
    this.#countName()
    const made = newDirectory()
    parent.children.set(ownCopy(name), made)
    return made
  }

  #attributes(entry: LayerEntry): InodeAttributes {
    const { mode, uid, gid, mtimeSec, mtimeNsec } = entry
    if (!entry.xattrs?.size) return { mode, uid, gid, mtimeSec, mtimeNsec }
    // Linux has them on files and directories only; container runtimes leave others out as well.
    const mayHaveUserXattrs = ['regular', 'hardlink', 'directory'].includes(entry.type)
    const xattrs = new Map<string, Uint8Array>()
    for (const [name, value] of entry.xattrs) {
      if (splitXattrName(name) && (mayHaveUserXattrs || !name.startsWith('user.'))) xattrs.set(name, value)
      else this.droppedXattrs++
    }
    const problem = xattrProblem(xattrs)
    if (problem !== undefined) throw entryFault('TAR_UNSUPPORTED', entry.name, `has ${problem}`)
    const attributes = { mode, uid, gid, mtimeSec, mtimeNsec }
    return xattrs.size > 0 ? { ...attributes, xattrs } : attributes
  }

  #countName(): void {
    if (++this.#entries > this.#limits.maxEntries)
      throw fault('IMAGE_TOO_LARGE', `the layer has more than ${this.#limits.maxEntries} entries`)
  }

  #count(entry: LayerEntry): void {
    this.#countName()
    this.#metadataBytes += entry.name.length + (entry.type === 'symlink' ? entry.target.length : 0)
    for (const [name, value] of entry.xattrs ?? []) this.#metadataBytes += name.length + value.length
    if (this.#metadataBytes > this.#limits.maxMetadataBytes)
      throw fault(
        'IMAGE_TOO_LARGE',
        `the layer's names, links and attributes take more than ${this.#limits.maxMetadataBytes} bytes`,
      )
  }
}

/** The shortest part of a string that V8 makes a view of it. */
const MIN_VIEW_LENGTH = 13

/** A name that does not keep the whole path in memory that it was cut from. */
function ownCopy(name: string): string {
  return name.length < MIN_VIEW_LENGTH ? name : Buffer.from(name, 'latin1').toString('latin1')
}

function describeDirectory(directory: DirectoryInode, attributes: InodeAttributes): void {
  describeAgain(directory, attributes)
  directory.implicit = false
}

/** Extended attributes add up where an archive describes an inode again, as they do where containers are unpacked. */
function describeAgain(inode: ImageInode, attributes: InodeAttributes): void {
  const xattrs = new Map([...(inode.xattrs ?? []), ...(attributes.xattrs ?? [])])
  Object.assign(inode, attributes, xattrs.size > 0 ? { xattrs } : {})
}
