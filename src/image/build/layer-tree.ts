import { fault } from '../../common/fault.js'
import type { DirectoryInode, ImageInode, RegularInode } from '../../erofs/image-tree.js'
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
      if (entry.type !== 'directory')
        throw entryFault(
          'TAR_INVALID',
          entry.name,
          'makes the root of the tree something else than a directory',
        )
      Object.assign(this.root, attributes, { implicit: false })
      return
    }
    const parent = this.#parentOf(entry)
    if (entry.type === 'directory') {
      const known = parent.children.get(name)
      const directory = known?.type === 'directory' ? known : newDirectory()
      // Attributes are replaced as a whole, extended ones too.
      delete directory.xattrs
      Object.assign(directory, attributes, { implicit: false })
      parent.children.set(name, directory)
      return
    }
    parent.children.set(name, this.#inode(entry, attributes, chunks))
  }

  #inode(
    entry: Exclude<LayerEntry, { type: 'directory' }>,
    attributes: Attributes,
    chunks: RegularInode['chunks'],
  ): ImageInode {
    switch (entry.type) {
      case 'hardlink':
        return this.#linkTarget(entry)
      case 'regular':
        return { ...attributes, type: 'regular', sizeBytes: entry.sizeBytes, chunks }
      case 'symlink':
        return { ...attributes, type: 'symlink', target: entry.target }
      case 'charDevice':
      case 'blockDevice':
        return { ...attributes, type: entry.type, major: entry.major, minor: entry.minor }
      case 'fifo':
      case 'socket':
        return { ...attributes, type: entry.type }
    }
  }

  /** The inode a hard link shares; links to anything but a regular file become copies, as the format wants it. */
  #linkTarget(entry: TarAttributes & { target: readonly string[] }): ImageInode {
    const target = entry.target.join('/')
    if (target === entry.path.join('/'))
      throw entryFault('TAR_INVALID', entry.name, 'is a hard link to itself')
    let inode: ImageInode | undefined = this.root
    for (const part of entry.target)
      inode = inode?.type === 'directory' ? inode.children.get(part) : undefined
    if (inode === undefined)
      throw entryFault(
        'TAR_INVALID',
        entry.name,
        `is a hard link to ${quoteName(target)}, which this layer does not hold before it`,
      )
    if (inode.type === 'directory')
      throw entryFault('TAR_UNSAFE', entry.name, `is a hard link to the directory ${quoteName(target)}`)
    return inode.type === 'regular' ? inode : { ...inode }
  }

  #parentOf(entry: TarAttributes): DirectoryInode {
    let directory = this.root
    for (const part of entry.path.slice(0, -1)) {
      const next = directory.children.get(part)
      if (next === undefined) {
        this.#countName()
        const made = newDirectory()
        directory.children.set(part, made)
        directory = made
      } else if (next.type === 'directory') {
        directory = next
      } else {
        throw entryFault('TAR_UNSAFE', entry.name, `lies below ${quoteName(part)}, which is not a directory`)
      }
    }
    return directory
  }

  #attributes(entry: TarAttributes): Attributes {
    const { mode, uid, gid, mtimeSec, mtimeNsec } = entry
    const xattrs = new Map<string, Uint8Array>()
    for (const [name, value] of entry.xattrs ?? []) {
      if (splitXattrName(name)) xattrs.set(name, value)
      else this.droppedXattrs++
    }
    const problem = xattrProblem(xattrs)
    if (problem !== undefined) throw entryFault('TAR_UNSUPPORTED', entry.name, `has ${problem}`)
    return { mode, uid, gid, mtimeSec, mtimeNsec, ...(xattrs.size > 0 ? { xattrs } : {}) }
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

type Attributes = Omit<TarAttributes, 'path' | 'name'>
