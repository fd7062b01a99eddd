import type { DirectoryInode, ImageInode } from '../../erofs/image-tree.js'
import { newDirectory } from './layer-tree.js'
import { OPAQUE_MARKER, WHITEOUT_META_PREFIX, WHITEOUT_PREFIX } from '../tar/tar-names.js'

/**
 * The tree a container sees: the layers, lowest first, laid over one another (rafs.md 6.3). The layers' own trees stay
 * as they are. Whiteouts apply to lower layers only and never appear in the result.
 */
export function mergeLayers(layers: readonly DirectoryInode[]): DirectoryInode {
  const merged = newDirectory()
  for (const layer of layers) overlay(merged, layer)
  return merged
}

/** Lays `upper` over `lower`, which is changed. */
function overlay(lower: DirectoryInode, upper: DirectoryInode): void {
  if (!upper.implicit) takeAttributes(lower, upper)
  for (const name of upper.children.keys()) {
    if (name === OPAQUE_MARKER) lower.children.clear()
    else if (isWhiteout(name)) lower.children.delete(name.slice(WHITEOUT_PREFIX.length))
  }
  for (const [name, child] of upper.children) {
    if (!name.startsWith(WHITEOUT_PREFIX)) place(lower, name, child)
  }
}

function place(lower: DirectoryInode, name: string, child: ImageInode): void {
  if (child.type !== 'directory') {
    lower.children.set(name, child)
    return
  }
  const known = lower.children.get(name)
  // A copy, for layers further up change it.
  const directory = known?.type === 'directory' ? known : newDirectory()
  lower.children.set(name, directory)
  overlay(directory, child)
}

function isWhiteout(name: string): boolean {
  return name.startsWith(WHITEOUT_PREFIX) && !name.startsWith(WHITEOUT_META_PREFIX)
}

function takeAttributes(to: DirectoryInode, from: DirectoryInode): void {
  const { mode, uid, gid, mtimeSec, mtimeNsec, xattrs } = from
  delete to.xattrs
  Object.assign(to, { mode, uid, gid, mtimeSec, mtimeNsec, implicit: false }, xattrs ? { xattrs } : {})
}
