import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fault, hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { CachefilesDevice } from './device.js'

/** How many objects one call asks the kernel to drop. */
const CULL_BATCH = 32

type Commands = Pick<CachefilesDevice, 'command'>

interface CacheObject {
  readonly folder: string
  readonly name: string
  readonly usedMs: number
}

/**
 * Frees space that the kernel asks for: offers it the least recently used objects. Those in use are refused by the
 * kernel and passed over. The chunk cache keeps its own copy, so nothing that was fetched is lost.
 */
export function cullObjects(device: Commands, directory: string, logger: Logger): number {
  const candidates = listObjects(join(directory, 'cache'))
  candidates.sort((a, b) => a.usedMs - b.usedMs)
  let culled = 0
  for (const object of candidates) {
    if (culled >= CULL_BATCH) break
    if (cull(device, object) === 'culled') culled++
  }
  logger.info({ culled, objects: candidates.length }, 'culled objects of the kernel cache')
  return culled
}

/** Drops the kernel's copies of one blob, in whichever domain. @throws INSTANCE_BUSY */
export function cullBlob(device: Commands, directory: string, blobId: string): void {
  for (const object of listObjects(join(directory, 'cache')))
    if (object.name === `D${blobId}` && cull(device, object) === 'in use')
      throw fault('INSTANCE_BUSY', `blob ${blobId} is in use by the kernel: unmount its images first`)
}

/** The device takes the name of an object in the directory that the process is in. */
function cull(device: Commands, { folder, name }: CacheObject): 'culled' | 'in use' | 'gone' {
  const home = process.cwd()
  process.chdir(folder)
  try {
    device.command(`cull ${name}`)
    return 'culled'
  } catch (err) {
    if (hasErrno(err, 'EBUSY')) return 'in use'
    if (hasErrno(err, 'ENOENT') || hasErrno(err, 'ESTALE')) return 'gone'
    throw err
  } finally {
    process.chdir(home)
  }
}

function listObjects(root: string): CacheObject[] {
  const objects: CacheObject[] = []
  for (const volume of entriesOf(root).filter(name => name.startsWith('I'))) {
    for (const bucket of entriesOf(join(root, volume)).filter(name => name.startsWith('@'))) {
      const folder = join(root, volume, bucket)
      for (const name of entriesOf(folder)) {
        const stat = statSync(join(folder, name), { throwIfNoEntry: false })
        if (stat?.isFile()) objects.push({ folder, name, usedMs: stat.atimeMs })
      }
    }
  }
  return objects
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (err) {
    if (hasErrno(err, 'ENOENT') || hasErrno(err, 'ENOTDIR')) return []
    throw err
  }
}
