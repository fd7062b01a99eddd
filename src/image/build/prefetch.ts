import type { DirectoryInode, ImageInode } from '../../erofs/image-tree.js'

/** The inodes of the paths that exist, in the order given; `/` is the root, which stands for everything. */
export function findPrefetched(root: DirectoryInode, paths: readonly string[]): ImageInode[] {
  return paths.flatMap(path => {
    let inode: ImageInode | undefined = root
    for (const part of partsOf(path))
      inode = inode?.type === 'directory' ? inode.children.get(part) : undefined
    return inode ? [inode] : []
  })
}

/** Tells of a file, by its path's components, whether one of the paths is its own or that of a directory above it. */
export function prefetchMatcher(paths: readonly string[]): (file: readonly string[]) => boolean {
  const wanted = new Set(paths.map(path => partsOf(path).join('/')))
  return file => {
    if (wanted.has('')) return true
    let prefix = ''
    return file.some((part, i) => {
      prefix = i === 0 ? part : `${prefix}/${part}`
      return wanted.has(prefix)
    })
  }
}

/** Components as byte strings. */
function partsOf(path: string): string[] {
  return Buffer.from(path)
    .toString('latin1')
    .split('/')
    .filter(part => part !== '')
}
