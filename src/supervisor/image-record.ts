/** What is stored of an image; everything else is asked for again. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { isTable } from '../common/config-check.js'
import type { Store } from '../common/store.js'
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

/** A record that is not followed: nothing is mounted, unmounted or told to a daemon because of it. */
export interface DamagedImageRecord {
  readonly key: string
  /** Half a sentence. */
  readonly reason: string
}

/**
 * What an earlier run left: images that are mounted, and those that only containers keep alive.
 * @param isOwn false for a record whose paths are not those of this root, as in one that was copied or damaged
 */
export async function readImageRecords(
  store: Store,
  isOwn: (record: ImageRecord) => boolean,
): Promise<{ records: ImageRecord[]; damaged: DamagedImageRecord[] }> {
  const records: ImageRecord[] = []
  const damaged: DamagedImageRecord[] = []
  for (const prefix of [MOUNTED_PREFIX, RELEASING_PREFIX])
    for (const [key, text] of await store.listText(prefix)) {
      const record = parseImageRecord(text)
      const name = key.slice(prefix.length)
      if (typeof record === 'string') damaged.push({ key, reason: record })
      else if ((prefix === MOUNTED_PREFIX ? record.spec.id : record.fsid) !== name)
        damaged.push({ key, reason: 'it is the record of another image' })
      else if (!isOwn(record)) damaged.push({ key, reason: 'its paths are not those of this root' })
      else records.push(record)
    }
  return { records, damaged }
}

/** @returns the record, or half a sentence about what is wrong with it */
function parseImageRecord(text: string): ImageRecord | string {
  let record: unknown
  try {
    record = JSON.parse(text)
  } catch {
    return 'it is not JSON'
  }
  if (!isTable(record)) return 'it is no object'
  const { spec, fsid, superblocks, state, fuse, takenOver } = record
  const texts = ['id', 'imageRef', 'bootstrapPath', 'mountpoint']
  if (!isTable(spec) || texts.some(name => typeof spec[name] !== 'string') || !isTable(spec['labels']))
    return 'it does not say which image it is'
  if (typeof fsid !== 'string' || !/^[0-9a-f]{64}$/.test(fsid)) return 'its fsid is none'
  if (!Array.isArray(superblocks) || superblocks.some(name => typeof name !== 'string' || name.includes('/')))
    return 'its superblocks are no names'
  if (!['mounting', 'mounted', 'releasing'].includes(String(state)))
    return `its state ${JSON.stringify(state)} is unknown`
  const places = ['daemon', 'mountpoint', 'path']
  if (fuse !== undefined && (!isTable(fuse) || places.some(name => typeof fuse[name] !== 'string')))
    return 'it does not say where FUSE shows the image'
  if (takenOver !== undefined && typeof takenOver !== 'string') return 'its second mountpoint is no path'
  return record as unknown as ImageRecord
}
