import type { DirectoryInode, ImageInode } from '../../erofs/image-tree.js'

/** A name of a tree. */
export interface TreeName {
  /** From the root without a leading slash, a byte string; empty for the root. */
  readonly path: string
  readonly inode: ImageInode
}

/** Every name of a tree, a directory before what is in it, in the order of the names' bytes. */
export function* walkTree(root: DirectoryInode): Generator<TreeName, void, undefined> {
  yield { path: '', inode: root }
  const open = [{ prefix: '', names: sortedNames(root) }]
  for (let top = open.at(-1); top !== undefined; top = open.at(-1)) {
    const next = top.names.next()
    if (next.done === true) {
      open.pop()
      continue
    }
    const [name, inode] = next.value
    const path = top.prefix + name
    yield { path, inode }
    if (inode.type === 'directory') open.push({ prefix: `${path}/`, names: sortedNames(inode) })
  }
}

function sortedNames(directory: DirectoryInode): Iterator<[string, ImageInode], undefined> {
  return [...directory.children].sort(([a], [b]) => (a < b ? -1 : 1)).values()
}
