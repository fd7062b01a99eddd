import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { CachefilesDevice } from './device.js'

/** How many objects one call asks the kernel to drop. */
const CULL_BATCH = 32

/**
 * Frees space that the kernel asks for: offers it the least recently used objects, one command each, from within their
 * directory, as the device wants it. Objects in use are refused by the kernel and passed over. The chunk cache keeps its
 * own copy, so nothing that was fetched is lost.
 */
export function cullObjects(device: CachefilesDevice, directory: string, logger: Logger): number {
  const candidates = listObjects(join(directory, 'cache'))
  candidates.sort((a, b) => a.usedMs - b.usedMs)
  const home = process.cwd()
  let culled = 0
  try {
    for (const { folder, name } of candidates) {
      if (culled >= CULL_BATCH) break
      process.chdir(folder)
      try {
        device.command(`cull ${name}`)
        culled++
      } catch (err) {
        if (!hasErrno(err, 'EBUSY') && !hasErrno(err, 'ENOENT') && !hasErrno(err, 'ESTALE')) throw err
      }
    }
  } finally {
    process.chdir(home)
  }
  logger.info({ culled, objects: candidates.length }, 'culled objects of the kernel cache')
  return culled
}

function listObjects(root: string): { folder: string; name: string; usedMs: number }[] {
  const objects: { folder: string; name: string; usedMs: number }[] = []
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
