import type { TreeChange, WorkerImage } from './messages.js'
import type { VirtualTree } from './virtual-tree.js'

/** Follows one step of the main thread's tree. */
export function applyChange(tree: VirtualTree<WorkerImage>, change: TreeChange): void {
  switch (change.type) {
    case 'directory':
      tree.addDirectory(change.directory)
      break
    case 'no-directory':
      tree.removeDirectory(change.ino)
      break
    case 'image':
      tree.addImage(change.image, change.on)
      break
    case 'no-image':
      tree.removeImage(change.sequence)
      break
  }
}
