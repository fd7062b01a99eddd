import type { ImageInode, RegularInode } from '../../erofs/image-tree.js'
import { walkTree } from '../read/walk-tree.js'
import type { HashedTree } from './image-tree.js'

/** What two images do not agree about. */
export interface Difference {
  /** From the root with a leading slash, made printable. */
  readonly path: string
  readonly what: string
}

/**
 * Compares two trees name by name: type, mode, owner, time in seconds, attributes, link targets, device numbers, sizes,
 * contents, and which names are one file. The root itself is exempt: layers often do not describe it.
 */
export function* compareTrees(source: HashedTree, target: HashedTree): Generator<Difference> {
  const [left, right] = [walkTree(source.root), walkTree(target.root)]
  const [sourceLinks, targetLinks] = [new Map<ImageInode, string>(), new Map<ImageInode, string>()]
  let [one, other] = [left.next(), right.next()]
  while (one.done !== true || other.done !== true) {
    const order =
      one.done === true ? 1 : other.done === true ? -1 : comparePaths(one.value.path, other.value.path)
    if (order < 0 && one.done !== true) {
      yield { path: named(one.value.path), what: 'is missing in the target' }
      one = left.next()
    } else if (order > 0 && other.done !== true) {
      yield { path: named(other.value.path), what: 'is in the target only' }
      other = right.next()
    } else if (one.done !== true && other.done !== true) {
      const { path } = one.value
      if (path !== '') {
        for (const what of compareInodes(one.value.inode, other.value.inode))
          yield { path: named(path), what }
        const [a, b] = [one.value.inode, other.value.inode]
        if (a.type === 'regular' && b.type === 'regular') {
          if (source.contents.get(a) !== target.contents.get(b))
            yield { path: named(path), what: 'has another content' }
          if (firstName(sourceLinks, a, path) !== firstName(targetLinks, b, path))
            yield { path: named(path), what: 'is linked with other names' }
        }
      }
      one = left.next()
      other = right.next()
    }
  }
}

function* compareInodes(source: ImageInode, target: ImageInode): Generator<string> {
  if (source.type !== target.type) {
    yield `is ${target.type} instead of ${source.type}`
    return
  }
  const differs = (what: string, a: unknown, b: unknown): string =>
    `has ${what} ${String(b)} instead of ${String(a)}`
  const [a, b] = [source, target]
  if (a.mode !== b.mode) yield differs('mode', a.mode.toString(8), b.mode.toString(8))
  if (a.uid !== b.uid) yield differs('owner', a.uid, b.uid)
  if (a.gid !== b.gid) yield differs('group', a.gid, b.gid)
  if (a.mtimeSec !== b.mtimeSec) yield differs('modification time', a.mtimeSec, b.mtimeSec)
  yield* compareXattrs(a.xattrs, b.xattrs)
  if (a.type === 'regular' && b.type === 'regular' && a.sizeBytes !== b.sizeBytes)
    yield differs('size', a.sizeBytes, b.sizeBytes)
  if (a.type === 'symlink' && b.type === 'symlink' && Buffer.compare(a.target, b.target) !== 0)
    yield differs('target', printable(latin1(a.target)), printable(latin1(b.target)))
  if ('major' in a && 'major' in b && (a.major !== b.major || a.minor !== b.minor))
    yield differs('device number', `${a.major}:${a.minor}`, `${b.major}:${b.minor}`)
}

function* compareXattrs(source: ImageInode['xattrs'], target: ImageInode['xattrs']): Generator<string> {
  const names = new Set([...(source?.keys() ?? []), ...(target?.keys() ?? [])])
  for (const name of names) {
    const [a, b] = [source?.get(name), target?.get(name)]
    if (b === undefined) yield `lacks the extended attribute ${printable(name)}`
    else if (a === undefined) yield `has the extended attribute ${printable(name)} too many`
    else if (Buffer.compare(a, b) !== 0)
      yield `has another value of the extended attribute ${printable(name)}`
  }
}

/** The name that a file had first in its own tree. */
function firstName(names: Map<ImageInode, string>, inode: RegularInode, path: string): string {
  const known = names.get(inode)
  if (known !== undefined) return known
  names.set(inode, path)
  return path
}

/** The order in which trees are walked: component by component. */
function comparePaths(a: string, b: string): number {
  const [left, right] = [a.split('/'), b.split('/')]
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const [x = '', y = ''] = [left[i], right[i]]
    if (x !== y) return x < y ? -1 : 1
  }
  return left.length - right.length
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1')
}

function named(path: string): string {
  return `/${printable(path)}`
}

/** A byte string as a person may see it. */
function printable(path: string): string {
  const text = Buffer.from(path, 'latin1').toString('utf8')
  return JSON.stringify(text).slice(1, -1)
}
