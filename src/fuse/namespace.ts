/** What is shown where: the main thread's hand on the virtual tree. Tells each step, and what the kernel must forget. */
import { fault } from '../common/fault.js'
import type { InodeReader } from '../erofs/inode-reader.js'
import type { TreeChange, WorkerImage } from './messages.js'
import { MAX_NAME_BYTES, ROOT_NODE } from './protocol.js'
import type { FuseState } from './server.js'
import {
  keyOf,
  MAX_PLACES,
  type MadeDirectory,
  placeOf,
  placeOfNode,
  type Resolved,
  VirtualTree,
} from './virtual-tree.js'

/** An image before it has its number. */
export type UnplacedImage = Omit<WorkerImage, 'sequence'>

/** A name that the kernel may remember wrongly. */
export interface StaleName {
  readonly parent: number
  readonly name: Uint8Array
}

export interface Step {
  readonly changes: readonly TreeChange[]
  readonly stale: readonly StaleName[]
}

interface Shown {
  readonly image: WorkerImage
  readonly directory: MadeDirectory
}

/** Lists what an image has in its root, and finds directories on the way to a nested image. */
export type OpenReader = (image: { sequence: number; bootstrapFd: number }) => InodeReader

export class Namespace {
  readonly #tree = new VirtualTree<WorkerImage>()
  readonly #shown = new Map<string, Shown>()
  /** What a predecessor showed, by path: it is shown under its old numbers. */
  readonly #restored = new Map<string, FuseState['images'][number]>()
  readonly #openReader: OpenReader
  #nextSequence = 0
  #nextDirectory = ROOT_NODE + 1

  constructor(openReader: OpenReader, restored?: FuseState) {
    this.#openReader = openReader
    if (!restored) return
    this.#nextSequence = restored.nextSequence
    this.#nextDirectory = restored.nextDirectory
    for (const directory of [...restored.directories].sort((a, b) => a.ino - b.ino))
      this.#tree.addDirectory(directory)
    for (const image of restored.images) this.#restored.set(image.path, image)
  }

  /** @throws INSTANCE_EXISTS, CONFIG_INVALID, DAEMON_STATE (too many), RAFS_* of an image that it is nested in */
  show(path: string, image: UnplacedImage): Step & { readonly image: WorkerImage } {
    const key = normalize(path)
    if (this.#shown.has(key)) throw fault('INSTANCE_EXISTS', `an image is shown at ${key} already`)
    const changes: TreeChange[] = []
    const stale: StaleName[] = []
    const before = this.#restored.get(key)
    const directory = this.#restoredDirectory(before) ?? this.#walk(key, changes)
    const sequence = before?.sequence ?? this.#takeSequence()
    const placed: WorkerImage = { ...image, sequence }
    const [made] = changes
    const newest = made?.type === 'directory' ? made.directory : directory
    if (!before) stale.push(...this.#staleAt(newest, placed))
    this.#restored.delete(key)
    this.#tree.addImage(placed, directory.ino)
    this.#shown.set(key, { image: placed, directory })
    return {
      changes: [...changes, { type: 'image', image: placed, on: directory.ino }],
      stale,
      image: placed,
    }
  }

  /** @throws INSTANCE_UNKNOWN, INSTANCE_BUSY */
  hide(path: string): Step & { readonly image: WorkerImage } {
    const key = normalize(path)
    const { image, directory } = this.#find(key)
    const inside = this.#nestedIn(image)
    if (inside !== undefined)
      throw fault('INSTANCE_BUSY', `an image is shown at ${inside}, inside that of ${key}: unmount it first`)
    let stale = this.#staleAt(directory, image)
    this.#shown.delete(key)
    this.#tree.removeImage(image.sequence)
    const changes: TreeChange[] = [{ type: 'no-image', sequence: image.sequence }]
    for (const gone of this.#removeUnused(directory)) {
      stale = [staleName(this.#tree, gone)]
      changes.push({ type: 'no-directory', ino: gone.ino })
    }
    return { changes, stale, image }
  }

  /** Lets go of directories of a predecessor that lead to no image any more. Before any worker has a copy. */
  prune(): StaleName[] {
    this.#restored.clear()
    const stale: StaleName[] = []
    for (const directory of [...this.#tree.directories()].reverse())
      for (const gone of this.#removeUnused(directory)) stale.push(staleName(this.#tree, gone))
    return stale
  }

  get(path: string): WorkerImage {
    return this.#find(normalize(path)).image
  }

  /** Everything as steps, for a worker that starts now. */
  snapshot(): TreeChange[] {
    const directories = [...this.#tree.directories()].filter(({ ino }) => ino !== ROOT_NODE)
    return [
      ...directories.map(directory => ({ type: 'directory', directory }) as const),
      ...[...this.#shown.values()].map(
        ({ image, directory }) => ({ type: 'image', image, on: directory.ino }) as const,
      ),
    ]
  }

  state(): Pick<FuseState, 'images' | 'directories' | 'nextSequence' | 'nextDirectory'> {
    return {
      images: [...this.#shown].map(([path, { image, directory }]) => ({
        path,
        sequence: image.sequence,
        directory: directory.ino,
      })),
      directories: [...this.#tree.directories()].filter(({ ino }) => ino !== ROOT_NODE),
      nextSequence: this.#nextSequence,
      nextDirectory: this.#nextDirectory,
    }
  }

  #find(key: string): Shown {
    const shown = this.#shown.get(key)
    if (!shown) throw fault('INSTANCE_UNKNOWN', `no image is shown at ${key}`)
    return shown
  }

  #restoredDirectory(before: FuseState['images'][number] | undefined): MadeDirectory | undefined {
    if (!before) return undefined
    return this.#tree.directory(before.directory)
  }

  /** The made-up directory at a path; what is missing of it is made. */
  #walk(path: string, changes: TreeChange[]): MadeDirectory {
    let at: Resolved<WorkerImage> = this.#standingOn(this.#tree.root)
    let directory = this.#tree.root
    const names = path.split('/').slice(1).filter(Boolean)
    for (const [i, text] of names.entries()) {
      const name = Buffer.from(text)
      const cover = this.#tree.coversIn(at)?.get(name.toString('latin1'))
      const own = cover || i === names.length - 1 ? undefined : this.#directoryIn(at, name)
      if (own) {
        at = own
        continue
      }
      directory = cover ?? this.#make(at, name.toString('latin1'), changes)
      at = this.#standingOn(directory)
    }
    return directory
  }

  #make(at: Resolved<WorkerImage>, name: string, changes: TreeChange[]): MadeDirectory {
    const directory = { ino: this.#nextDirectory++, parent: keyOf(at), name }
    this.#tree.addDirectory(directory)
    changes.push({ type: 'directory', directory })
    return directory
  }

  #standingOn(directory: MadeDirectory): Resolved<WorkerImage> {
    const image = this.#tree.imageOn(directory)
    return image ? { image, ino: image.rootIno } : { directory }
  }

  /** A directory that the image itself has. */
  #directoryIn(at: Resolved<WorkerImage>, name: Uint8Array): Resolved<WorkerImage> | undefined {
    if (!at.image) return undefined
    const reader = this.#openReader(at.image)
    const ino = reader.lookup(at.ino, name)
    if (ino === undefined || reader.attributes(ino).type !== 'directory') return undefined
    return { image: at.image, ino }
  }

  #takeSequence(): number {
    if (this.#shown.size >= MAX_PLACES)
      throw fault('DAEMON_STATE', `${MAX_PLACES} images are shown, which is the most: unmount some`)
    while (this.#tree.hasPlace(this.#nextSequence)) this.#nextSequence++
    return this.#nextSequence++
  }

  /**
   * What the kernel may remember of the place where an image comes or goes: its name, and for the root, which has none,
   * the names in it, of the image and of what it covers.
   */
  #staleAt(directory: MadeDirectory, image: WorkerImage): StaleName[] {
    if (directory.ino !== ROOT_NODE) return [staleName(this.#tree, directory)]
    const stale: StaleName[] = []
    const reader = this.#openReader(image)
    reader.readDirectory(image.rootIno, 0, (bytes, start, end) => {
      stale.push({ parent: ROOT_NODE, name: Buffer.from(bytes.subarray(start, end)) })
      return true
    })
    for (const name of this.#tree.coversIn({ directory })?.keys() ?? [])
      stale.push({ parent: ROOT_NODE, name: Buffer.from(name, 'latin1') })
    return stale
  }

  /** Path of an image that is nested in this one. */
  #nestedIn(image: WorkerImage): string | undefined {
    const place = placeOf(image.sequence)
    const inside = [...this.#tree.directories()].some(({ parent }) => placeOfNode(parent) === place)
    if (!inside) return undefined
    for (const [path, { directory }] of this.#shown) {
      for (let at = directory; at.ino !== ROOT_NODE;) {
        if (placeOfNode(at.parent) === place) return path
        const above = this.#tree.resolve(at.parent)
        if (!above) break
        at = above.image ? this.#tree.under(above.image) : above.directory
      }
    }
    return undefined
  }

  /** Removes a directory that leads to no image, and those above it that then lead to none. */
  #removeUnused(directory: MadeDirectory): MadeDirectory[] {
    const removed: MadeDirectory[] = []
    let at = directory
    while (at.ino !== ROOT_NODE && !this.#tree.imageOn(at) && !this.#tree.coversIn({ directory: at })) {
      this.#tree.removeDirectory(at.ino)
      removed.push(at)
      const above = placeOfNode(at.parent) === 0 ? this.#tree.directory(at.parent) : undefined
      if (!above) break
      at = above
    }
    return removed
  }
}

function staleName(tree: VirtualTree<WorkerImage>, directory: MadeDirectory): StaleName {
  return { parent: tree.parentNode(directory), name: Buffer.from(directory.name, 'latin1') }
}

/** `/a//b/` is `/a/b`. @throws CONFIG_INVALID */
function normalize(path: string): string {
  const names = path.split('/').filter(Boolean)
  const bad = names.find(name => name === '.' || name === '..' || Buffer.byteLength(name) > MAX_NAME_BYTES)
  if (!path.startsWith('/') || path.includes('\0') || bad !== undefined)
    throw fault(
      'CONFIG_INVALID',
      `${JSON.stringify(path)} is no path to show an image at: use one like /name`,
    )
  return `/${names.join('/')}`
}
