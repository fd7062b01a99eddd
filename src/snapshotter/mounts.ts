import { LABELS } from './labels.js'
import type { Kind, Labels, Mount } from './snapshots.js'

/** A snapshot as its mounts depend on it. */
export interface MountInput {
  readonly kind: Kind
  readonly labels: Labels
  /** Its own directories. */
  readonly upperPath: string
  readonly workPath: string
  /** `fs` directories of the snapshots below, nearest first. */
  readonly lowerPaths: readonly string[]
  /** Mountpoint of the lazily read image that replaces everything below the last of `lowerPaths`. */
  readonly imagePath?: string
  /** For a runtime that mounts the image by itself, in its guest. */
  readonly runtime?: RuntimeMount
  /** Every writable overlay may lose its upper layer in a power cut. */
  readonly alwaysVolatile: boolean
}

/** What takes the place of a plain overlay: a mount helper, and an option for the runtime, which the helper drops. */
export interface RuntimeMount {
  readonly helper: string
  readonly option: string
}

/**
 * How a client mounts a snapshot. Plain layers: a bind mount where one directory is all there is, else an overlay.
 * On a lazily read image it is an overlay always, whose lowest layer is the image's mountpoint.
 */
export function mountsOf(input: MountInput): Mount[] {
  const { upperPath, lowerPaths, imagePath, runtime } = input
  const idMapping = idMappingOptions(input.labels)
  if (imagePath === undefined) {
    const [nearest = upperPath] = lowerPaths
    if (lowerPaths.length === 0 || (input.kind === 'view' && lowerPaths.length === 1))
      return [bind(nearest, input.kind === 'active' ? 'rw' : 'ro', idMapping)]
  }
  const lowers = imagePath === undefined ? [...lowerPaths] : [...lowerPaths, imagePath]
  // An overlay without an upper layer needs two lower ones; the view's own directory is empty.
  if (input.kind === 'view' && lowers.length === 1) lowers.push(upperPath)
  return [
    {
      type: runtime ? `fuse.${runtime.helper}` : 'overlay',
      source: 'overlay',
      options: [
        ...(input.kind === 'active' ? writableOptions(input) : []),
        ...idMapping,
        `lowerdir=${lowers.map(escapeLower).join(':')}`,
        ...(runtime ? [runtime.option] : []),
      ],
    },
  ]
}

function bind(source: string, access: 'rw' | 'ro', idMapping: string[]): Mount {
  return { type: 'bind', source, options: [access, 'rbind', ...idMapping] }
}

function writableOptions({ upperPath, workPath, labels, alwaysVolatile }: MountInput): string[] {
  const volatile = alwaysVolatile || labels[LABELS.volatile] !== undefined
  return [`workdir=${workPath}`, `upperdir=${upperPath}`, ...(volatile ? ['volatile'] : [])]
}

/** Read by containerd's mounter, not by the kernel. */
function idMappingOptions(labels: Labels): string[] {
  const uid = labels[LABELS.uidMapping]
  const gid = labels[LABELS.gidMapping]
  return [...(uid === undefined ? [] : [`uidmap=${uid}`]), ...(gid === undefined ? [] : [`gidmap=${gid}`])]
}

function escapeLower(path: string): string {
  return path.replaceAll('\\', '\\\\').replaceAll(':', '\\:')
}
