/**
 * EROFS mounts whose fanotify group was lost: holes may have been read as zeros into the page cache. By now the files are
 * marked again. What the cache has of the mounts is dropped, file by file and whole, for the kernel holds pages in pieces
 * that reach over any range; what is mapped it cannot drop, and that is compared with a fresh mount of the same image.
 */
import { closeSync, constants, mkdirSync, openSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { MountPlan } from '../client/api.js'
import { asFault, hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { dropCache, readResidentPages } from '../native/file.js'
import { identify, type ProcessIdentity } from './daemon-process.js'
import { isErofsMounted, mountPlanned, unmountAll } from './erofs-mount.js'
import { findMappedFiles, type MappedFile } from './mapped-files.js'

export interface LostMount {
  readonly imageRef: string
  readonly mountpoint: string
  readonly plan: MountPlan
}

/** A file with wrong bytes in the memory of a process: only its end makes them go. */
export interface WrongMapping extends Omit<MappedFile, 'handle'>, ProcessIdentity {
  readonly imageRef: string
  /** Of the image. */
  readonly mountpoint: string
}

const PAGE = 4096
/** Files between two turns of the event loop. */
const BATCH = 256
const COMPARE_BYTES = 1 << 20
const SLASH = Buffer.from('/')

/** @param scratchDirectory where images are mounted to be compared with */
export async function mendMounts(
  mounts: readonly LostMount[],
  scratchDirectory: string,
  logger: Logger,
): Promise<WrongMapping[]> {
  for (const { imageRef, mountpoint } of mounts) {
    if (!isErofsMounted(mountpoint)) continue
    const files = await dropFiles(Buffer.from(mountpoint))
    logger.info({ imageRef, mountpoint, files }, 'what was cached of a mount is dropped')
  }
  // What only an overlay holds has no name here any more.
  writeFileSync('/proc/sys/vm/drop_caches', '1')
  const wrong: WrongMapping[] = []
  for (const mount of mounts) {
    try {
      wrong.push(...(await findWrong(mount, join(scratchDirectory, 'compare'), logger)))
    } catch (err) {
      logger.error(
        { err: asFault(err), imageRef: mount.imageRef },
        'files that are mapped cannot be checked: restart the containers of this image',
      )
    }
  }
  return wrong
}

/** Drops the pages of every regular file below a directory. @returns how many files */
async function dropFiles(root: Buffer): Promise<number> {
  const directories = [root]
  let files = 0
  for (let directory = directories.pop(); directory; directory = directories.pop()) {
    for (const entry of readdirSync(directory, { withFileTypes: true, encoding: 'buffer' })) {
      const path = Buffer.concat([directory, SLASH, entry.name])
      if (entry.isDirectory()) directories.push(path)
      if (!entry.isFile()) continue
      const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW)
      dropCache(fd)
      closeSync(fd)
      if (++files % BATCH === 0) await nextTurn()
    }
  }
  return files
}

async function findWrong(
  { imageRef, mountpoint, plan }: LostMount,
  fresh: string,
  logger: Logger,
): Promise<WrongMapping[]> {
  const mapped = await findMappedFiles(mountpoint)
  if (mapped.length === 0) return []
  const wrong: WrongMapping[] = []
  mkdirSync(fresh, { recursive: true, mode: 0o700 })
  await unmountAll(fresh)
  await mountPlanned(plan, fresh, logger)
  try {
    for (const { handle, ...facts } of mapped) {
      if (await isRight(handle, join(fresh, facts.path))) continue
      const process = identify(facts.pid)
      if (!process) continue
      wrong.push({ imageRef, mountpoint, ...facts, ...process })
      logger.error(
        { imageRef, ...facts },
        'a process has wrong bytes of a file in its memory: restart its container',
      )
    }
  } finally {
    await unmountAll(fresh)
    rmdirSync(fresh)
  }
  return wrong
}

/** Compares what is in memory of a mapped file. One that is not of the image, or is not mapped any more, is not wrong. */
async function isRight(handle: string, path: string): Promise<boolean> {
  const files: FileHandle[] = []
  try {
    for (const name of [handle, path]) files.push(await open(name, 'r'))
    const [mapped, fresh] = files
    if (!mapped || !fresh) return true
    const [is, was] = [await mapped.stat(), await fresh.stat()]
    // A container's own file of that name.
    if (is.size !== was.size || is.mtimeMs !== was.mtimeMs || is.size === 0) return true
    const resident = readResidentPages(mapped.fd, is.size)
    for (let from = resident.indexOf(1); from >= 0; from = resident.indexOf(1, from)) {
      const until = Math.min(from + COMPARE_BYTES / PAGE, resident.length)
      const end = resident.subarray(from, until).indexOf(0)
      const to = end < 0 ? until : from + end
      if (!(await areSame(mapped, fresh, from * PAGE, (to - from) * PAGE))) return false
      from = to
    }
    return true
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return true
    throw err
  } finally {
    for (const file of files) await file.close()
  }
}

async function areSame(one: FileHandle, other: FileHandle, offset: number, length: number): Promise<boolean> {
  const [a, b] = await Promise.all(
    [one, other].map(async file => {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset)
      return buffer.subarray(0, bytesRead)
    }),
  )
  return a !== undefined && b !== undefined && a.equals(b)
}
