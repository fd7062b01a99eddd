/**
 * The directories that images are shown in, and which image stands where.
 *
 * A node is a number: place * 2^40 + the inode number in its image. Place 0 holds directories that are made up, for the
 * names on the way to an image. What stands in a directory (made up, or of an image) under a name covers what the image
 * has there. An image covers the made-up directory that it stands on and all below; the kernel sees the root as node 1,
 * whatever stands on it.
 *
 * The main thread changes the tree; each worker has a copy that follows by messages.
 */
import { ROOT_NODE } from './protocol.js'

const PLACE = 2 ** 40
/** Places of images: 1 to this. A node stays below 2^53. */
export const MAX_PLACES = 8191

export interface PlacedImage {
  /** Counts images since the mount; the place comes round, the generation tells those of one place apart. */
  readonly sequence: number
  readonly rootIno: number
}

export interface MadeDirectory {
  readonly ino: number
  /** Node of the directory it is in; the root is in itself. */
  readonly parent: number
  /** `latin1`; empty for the root. */
  readonly name: string
}

/** What a node stands for. */
export type Resolved<Image> =
  | { readonly directory: MadeDirectory; readonly image?: undefined }
  | { readonly image: Image; readonly ino: number }

export class VirtualTree<Image extends PlacedImage> {
  readonly #directories = new Map<number, MadeDirectory>()
  /** By node of the directory that they are in, then by name. */
  readonly #covers = new Map<number, Map<string, MadeDirectory>>()
  /** By place. */
  readonly #images = new Map<number, Image>()
  /** The image that stands on a made-up directory, by ino of that. */
  readonly #standing = new Map<number, Image>()
  /** By place: ino of the made-up directory that the image stands on. */
  readonly #stands = new Map<number, number>()

  constructor() {
    this.#directories.set(ROOT_NODE, { ino: ROOT_NODE, parent: ROOT_NODE, name: '' })
  }

  get root(): MadeDirectory {
    return this.#need(ROOT_NODE)
  }

  addDirectory(directory: MadeDirectory): void {
    this.#directories.set(directory.ino, directory)
    const covers = this.#covers.get(directory.parent) ?? new Map<string, MadeDirectory>()
    this.#covers.set(directory.parent, covers.set(directory.name, directory))
  }

  removeDirectory(ino: number): void {
    const { parent, name } = this.#need(ino)
    this.#directories.delete(ino)
    const covers = this.#covers.get(parent)
    covers?.delete(name)
    if (covers?.size === 0) this.#covers.delete(parent)
  }

  addImage(image: Image, ino: number): void {
    const place = placeOf(image.sequence)
    this.#images.set(place, image)
    this.#standing.set(ino, image)
    this.#stands.set(place, ino)
  }

  removeImage(sequence: number): void {
    const place = placeOf(sequence)
    this.#images.delete(place)
    this.#standing.delete(this.#stands.get(place) ?? 0)
    this.#stands.delete(place)
  }

  hasPlace(sequence: number): boolean {
    return this.#images.has(placeOf(sequence))
  }

  imageOn(directory: MadeDirectory): Image | undefined {
    return this.#standing.get(directory.ino)
  }

  directory(ino: number): MadeDirectory | undefined {
    return this.#directories.get(ino)
  }

  directories(): IterableIterator<MadeDirectory> {
    return this.#directories.values()
  }

  /** What a node number of the kernel stands for; undefined when its image was hidden or its directory is gone. */
  resolve(node: number): Resolved<Image> | undefined {
    if (node >= PLACE) {
      const place = placeOfNode(node)
      const image = this.#images.get(place)
      return image && { image, ino: node - place * PLACE }
    }
    const image = this.#standing.get(node)
    if (image) return { image, ino: image.rootIno }
    const directory = this.#directories.get(node)
    return directory && { directory }
  }

  /** The node number that the kernel is to know an inode of an image by. */
  nodeOf(image: Image, ino: number): number {
    const place = placeOf(image.sequence)
    if (ino === image.rootIno && this.#stands.get(place) === ROOT_NODE) return ROOT_NODE
    return place * PLACE + ino
  }

  /** The node of whatever is seen at a made-up directory. */
  nodeAt(directory: MadeDirectory): number {
    const image = this.imageOn(directory)
    return image ? this.nodeOf(image, image.rootIno) : directory.ino
  }

  /** What is in a directory beside what an image has there, by name. */
  coversIn(at: Resolved<Image>): ReadonlyMap<string, MadeDirectory> | undefined {
    if (this.#covers.size === 0) return undefined
    return this.#covers.get(keyOf(at))
  }

  /** The node of the directory that a made-up directory, or the image on it, is in, as the kernel knows it. */
  parentNode(directory: MadeDirectory): number {
    const { parent } = directory
    if (parent < PLACE) return parent
    const image = this.#images.get(Math.floor(parent / PLACE))
    return image ? this.nodeOf(image, parent % PLACE) : parent
  }

  /** The made-up directory that an image stands on. */
  under(image: Image): MadeDirectory {
    return this.#need(this.#stands.get(placeOf(image.sequence)) ?? ROOT_NODE)
  }

  #need(ino: number): MadeDirectory {
    const directory = this.#directories.get(ino)
    if (!directory) throw new RangeError(`no directory ${ino}`)
    return directory
  }
}

/** The number of a directory among the parents of made-up ones: that of the image's root is never 1. */
export function keyOf(at: Resolved<PlacedImage>): number {
  return at.image ? placeOf(at.image.sequence) * PLACE + at.ino : at.directory.ino
}

/** The place of the image that a directory number is of; 0 for a made-up one. */
export function placeOfNode(node: number): number {
  return Math.floor(node / PLACE)
}

export function placeOf(sequence: number): number {
  return 1 + (sequence % MAX_PLACES)
}

export function generationOf(sequence: number): number {
  return Math.floor(sequence / MAX_PLACES)
}
