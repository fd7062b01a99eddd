import type { DeviceInode, DirectoryInode, ImageInode } from '../../erofs/image-tree.js'
import { newDirectory } from './layer-tree.js'
import { OPAQUE_MARKER, WHITEOUT_META_PREFIX, WHITEOUT_PREFIX } from '../tar/tar-names.js'

/**
 * How a layer says what it deletes: by marker files (OCI), as an upper directory of overlayfs does (devices 0:0 and
 * opaque directories), or not at all, when markers are ordinary files.
 */
export type WhiteoutSpec = 'oci' | 'overlayfs' | 'none'

/** The attribute of an opaque directory of overlayfs; its value is `y`. */
const OPAQUE_XATTR = 'trusted.overlay.opaque'

/**
 * The tree a container sees: the layers, lowest first, laid over one another (rafs.md 6.3). The layers' own trees stay
 * as they are. Whiteouts apply to lower layers only and never appear in the result.
 */
export function mergeLayers(layers: readonly DirectoryInode[], spec: WhiteoutSpec = 'oci'): DirectoryInode {
  const merged = newDirectory()
  for (const layer of layers) overlay(merged, layer, spec)
  return merged
}

/** Lays `upper` over `lower`, which is changed; `upper` stays as it is. */
export function overlay(lower: DirectoryInode, upper: DirectoryInode, spec: WhiteoutSpec): void {
  if (!upper.implicit) takeAttributes(lower, upper)
  if (spec === 'oci') {
    for (const name of upper.children.keys()) {
      if (name === OPAQUE_MARKER) lower.children.clear()
      else if (name.startsWith(WHITEOUT_PREFIX) && !name.startsWith(WHITEOUT_META_PREFIX))
        lower.children.delete(name.slice(WHITEOUT_PREFIX.length))
    }
  }
  for (const [name, child] of upper.children) {
    if (spec === 'oci' && name.startsWith(WHITEOUT_PREFIX)) continue
    if (spec === 'overlayfs' && isWhiteoutDevice(child)) lower.children.delete(name)
    else place(lower, name, child, spec)
  }
}

function place(lower: DirectoryInode, name: string, child: ImageInode, spec: WhiteoutSpec): void {
  if (child.type !== 'directory') {
    lower.children.set(name, child)
    return
  }
  const known = lower.children.get(name)
  // A copy, for layers further up change it.
  const directory = known?.type === 'directory' ? known : newDirectory()
  lower.children.set(name, directory)
  if (spec === 'overlayfs' && isOpaque(child)) {
    directory.children.clear()
    overlay(directory, withoutOpaque(child), spec)
  } else {
    overlay(directory, child, spec)
  }
}

function isWhiteoutDevice(inode: ImageInode): inode is DeviceInode {
  return inode.type === 'charDevice' && inode.major === 0 && inode.minor === 0
}

function isOpaque({ xattrs }: DirectoryInode): boolean {
  const value = xattrs?.get(OPAQUE_XATTR)
  return value?.length === 1 && value[0] === 0x79
}

function withoutOpaque(directory: DirectoryInode): DirectoryInode {
  const xattrs = new Map(directory.xattrs)
  xattrs.delete(OPAQUE_XATTR)
  return { ...directory, xattrs }
}

function takeAttributes(to: DirectoryInode, from: DirectoryInode): void {
  const { mode, uid, gid, mtimeSec, mtimeNsec, xattrs } = from
  delete to.xattrs
  Object.assign(to, { mode, uid, gid, mtimeSec, mtimeNsec, implicit: false }, xattrs?.size ? { xattrs } : {})
}
