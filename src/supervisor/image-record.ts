/** What is stored of an image; everything else is asked for again. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { ImageSpec } from './image-mounts.js'

export interface ImageRecord {
  readonly spec: ImageSpec
  /** Names this mount: bootstrap digest and generation. */
  readonly fsid: string
  /**
   * Names below /sys/fs/erofs, once mounted by the kernel: its superblock, and any that somebody else mounted at the
   * same moment. It counts as gone when all of them are.
   */
  superblocks: string[]
  state: 'mounting' | 'mounted' | 'releasing'
  /** Of an image that FUSE serves. */
  readonly fuse?: FusePlace
  /** Where the kernel has it mounted too, since all of it is local. */
  takenOver?: string
  /** It is not coming back: what was cached for it alone goes with it. */
  discard?: boolean
}

export interface FusePlace {
  /** Key of the daemon: the image's id, or that of the shared one. */
  readonly daemon: string
  /** Of the daemon's mount. */
  readonly mountpoint: string
  /** Below it: `/` or `/<id>`. */
  readonly path: string
  readonly version: 5 | 6
}

export const GENERATION_KEY = 'supervisor/generation'
export const MOUNTED_PREFIX = 'supervisor/instance/'
export const RELEASING_PREFIX = 'supervisor/releasing/'
export const mountedKey = (id: string): string => `${MOUNTED_PREFIX}${id}`
export const releasingKey = (fsid: string): string => `${RELEASING_PREFIX}${fsid}`

/** A name that no earlier mount had. */
export function freshFsid(bootstrapPath: string, generation: number): string {
  return createHash('sha256')
    .update(readFileSync(bootstrapPath))
    .update(`generation ${generation}`)
    .digest('hex')
}
