import type { InodeReader } from '../erofs/inode-reader.js'
import { type Entry, Reply } from './reply.js'
import type { WorkerImage } from './messages.js'
import type { MadeDirectory, Resolved } from './virtual-tree.js'

/** What one directory is made of. */
export interface DirectoryView {
  readonly at: Resolved<WorkerImage>
  readonly node: number
  readonly parentNode: () => number
  readonly covers: ReadonlyMap<string, MadeDirectory> | undefined
  /** Of the image that the directory is in. */
  readonly reader: InodeReader | undefined
  readonly nodeOf: (ino: number) => number
  readonly nodeOfCover: (cover: MadeDirectory) => number
  readonly entryOf: (ino: number) => Entry | undefined
  readonly entryOfCover: (cover: MadeDirectory) => Entry
}

export interface DirectoryRequest {
  /** 0, or the place after an entry, as the kernel was told. */
  readonly from: number
  readonly sizeBytes: number
  readonly plus: boolean
}

/** Places: 1 after `.`, 2 after `..`, then those of the image's reader, then those of made-up directories by ino. */
const AFTER_DOTS = 2
const COVERS = 2 ** 52

/** Puts entries into the reply until it is full. @returns bytes of the payload; 0 at the end */
export function readDirectory(view: DirectoryView, request: DirectoryRequest, reply: Reply): number {
  const { reader, covers, at } = view
  const { from, sizeBytes, plus } = request
  let used = 0
  const fits = (nameBytes: number): boolean => used + Reply.direntBytes(nameBytes, plus) <= sizeBytes
  const add = (name: Uint8Array, node: number, next: number, entry: Entry | undefined): boolean => {
    if (!fits(name.length)) return false
    if (plus) used += reply.attributesOfDirent(used, entry)
    used += reply.dirent(used, name, 0, name.length, node, 'directory', next)
    return true
  }
  // A directory that is none is refused before its dots are told.
  const parentNode = from < AFTER_DOTS ? view.parentNode() : 0
  if (from < 1 && !add(ONE_DOT, view.node, 1, undefined)) return used
  if (from < 2 && !add(TWO_DOTS, parentNode, 2, undefined)) return used
  let full = false
  if (reader && at.image && from < COVERS) {
    reader.readDirectory(at.ino, Math.max(0, from - AFTER_DOTS), (bytes, start, end, ino, type, next) => {
      if (covers?.has(Buffer.from(bytes.subarray(start, end)).toString('latin1'))) return true
      full = !fits(end - start)
      if (full) return false
      if (plus) used += reply.attributesOfDirent(used, view.entryOf(ino))
      used += reply.dirent(used, bytes, start, end, view.nodeOf(ino), type, next + AFTER_DOTS)
      return true
    })
  }
  if (full || !covers) return used
  for (const [name, cover] of covers) {
    if (COVERS + cover.ino <= from) continue
    const entry = plus ? view.entryOfCover(cover) : undefined
    if (!add(Buffer.from(name, 'latin1'), view.nodeOfCover(cover), COVERS + cover.ino, entry)) break
  }
  return used
}

const ONE_DOT = Buffer.from('.')
const TWO_DOTS = Buffer.from('..')
