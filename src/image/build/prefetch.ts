import type { DirectoryInode, ImageInode } from '../../erofs/image-tree.js'

/** The inodes of the paths that exist, in the order given; `/` is the root, which stands for everything. */
export function findPrefetched(root: DirectoryInode, paths: readonly string[]): ImageInode[] {
  return paths.flatMap(path => {
    let inode: ImageInode | undefined = root
    for (const part of Buffer.from(path).toString('latin1').split('/')) {
      if (part === '') continue
      inode = inode?.type === 'directory' ? inode.children.get(part) : undefined
    }
    return inode ? [inode] : []
  })
}
