import { chmod, chown, lstat, mkdir, mkdtemp, open, readdir, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { asFault, fault, hasErrno } from '../common/fault.js'
import { readMountTable } from '../native/mount-table.js'
import type { ImageRecord } from '../supervisor/image-record.js'
import { LABELS, mappedRoot } from './labels.js'
import type { Labels } from './snapshots.js'

/** Directories that are being made carry the id they are made for, so that nobody takes them for left-overs. */
const TEMPORARY = /^new-(\d+)-/
const COMPLETE = /^\d{1,15}$/
/** What holds somebody's files and has lost its record, by {@link Directories.setAside}. */
const LOST = 'lost-'

/**
 * The directories of the snapshots: `<root>/snapshots/<id>` with `fs`, the layer's content; `work` beside it for
 * overlayfs, where the snapshot was made for writing; and `mnt`, where a lazily read image is mounted.
 *
 * A directory with a decimal name is complete and on the disk. One that no record tells of is an orphan. What has another
 * name is nobody's business here.
 */
export class Directories {
  readonly #root: string
  /** Ids whose directory is made already, or soon, and whose record is not yet. */
  readonly #unrecorded = new Set<string>()

  private constructor(root: string) {
    this.#root = root
  }

  static async open(stateRoot: string): Promise<Directories> {
    const root = path.join(stateRoot, 'snapshots')
    await mkdir(root, { recursive: true, mode: 0o700 })
    return new Directories(root)
  }

  path(id: string): string {
    return path.join(this.#root, id)
  }

  fsPath(id: string): string {
    return path.join(this.#root, id, 'fs')
  }

  workPath(id: string): string {
    return path.join(this.#root, id, 'work')
  }

  mountPath(id: string): string {
    return path.join(this.#root, id, 'mnt')
  }

  /** Ids that directories have, complete or not. */
  async readIds(): Promise<string[]> {
    const ids = (await readdir(this.#root)).map(name => TEMPORARY.exec(name)?.[1] ?? name)
    return ids.filter(id => COMPLETE.test(id))
  }

  /**
   * Makes the directory of a snapshot and runs `record`, which is to make it known; if that throws, the directory goes
   * again. The new `fs` belongs to whom the id mapping says, else to the owner of the parent's.
   */
  async create<T>(
    id: string,
    options: { writable: boolean; labels: Labels; parentId: string | undefined },
    record: () => Promise<T>,
  ): Promise<T> {
    this.#unrecorded.add(id)
    let current: string | undefined
    try {
      current = await mkdtemp(path.join(this.#root, `new-${id}-`))
      await makeDirectory(path.join(current, 'fs'), 0o755)
      if (options.writable) await makeDirectory(path.join(current, 'work'), 0o711)
      await this.#own(path.join(current, 'fs'), options.labels, options.parentId)
      const final = path.join(this.#root, id)
      await rename(current, final)
      current = final
      await sync(this.#root)
      return await record()
    } catch (err) {
      if (current !== undefined) await rm(current, { recursive: true, force: true })
      throw err
    } finally {
      this.#unrecorded.delete(id)
    }
  }

  /** Names of the directories that belong to no snapshot, and to none that is being made. */
  async readOrphans(isRecorded: (id: string) => boolean): Promise<string[]> {
    return (await readdir(this.#root)).filter(name => {
      const id = TEMPORARY.exec(name)?.[1]
      if (this.#unrecorded.has(id ?? name)) return false
      return id !== undefined || (COMPLETE.test(name) && !isRecorded(name))
    })
  }

  /** True where somebody wrote into a directory: it was a snapshot's, not one that was just made. */
  async isUsed(id: string): Promise<boolean> {
    for (const directory of [this.fsPath(id), this.workPath(id)]) {
      try {
        if ((await readdir(directory)).length > 0) return true
      } catch (err) {
        if (!hasErrno(err, 'ENOENT') && !hasErrno(err, 'ENOTDIR')) throw err
      }
    }
    return false
  }

  /** Renames a directory so that nobody takes it for an orphan. @returns its new path */
  async setAside(id: string): Promise<string> {
    const aside = path.join(this.#root, LOST + id)
    await rename(path.join(this.#root, id), aside)
    return aside
  }

  /** Paths of those that were set aside. */
  async readLost(): Promise<string[]> {
    const names = (await readdir(this.#root)).filter(name => name.startsWith(LOST))
    return names.map(name => path.join(this.#root, name))
  }

  /**
   * What is wrong with the directory of a snapshot, half a sentence; undefined for a sound one. A missing `work`, which
   * holds nothing but what an overlay has under way, is made again.
   */
  async problemOf(id: string, options: { writable: boolean }): Promise<string | undefined> {
    const fsPath = this.fsPath(id)
    try {
      if (!(await lstat(fsPath)).isDirectory()) return `${fsPath} is no directory`
    } catch (err) {
      if (hasErrno(err, 'ENOENT') || hasErrno(err, 'ENOTDIR')) return `its directory ${fsPath} is gone`
      return `its directory ${fsPath} cannot be read: ${asFault(err).message}`
    }
    if (!options.writable) return undefined
    const workPath = this.workPath(id)
    try {
      await makeDirectory(workPath, 0o711)
    } catch (err) {
      if (!hasErrno(err, 'EEXIST')) return `its directory ${workPath} cannot be made: ${asFault(err).message}`
      if (!(await lstat(workPath)).isDirectory()) return `${workPath} is no directory`
    }
    return undefined
  }

  /** True where an image is, or was, mounted. */
  async hasMountpoint(name: string): Promise<boolean> {
    try {
      return (await lstat(path.join(this.#root, name, 'mnt'))).isDirectory()
    } catch (err) {
      if (hasErrno(err, 'ENOENT')) return false
      throw err
    }
  }

  /** Deletes a directory and all in it. Refuses while something is mounted in it. @throws SNAPSHOT_STATE */
  async delete(name: string): Promise<void> {
    const directory = path.join(this.#root, name)
    const mounted = readMountTable().find(({ mountpoint }) => mountpoint.startsWith(`${directory}/`))
    if (mounted)
      throw fault(
        'SNAPSHOT_STATE',
        `${directory} cannot be deleted: ${mounted.mountpoint} is mounted, unmount it`,
      )
    await rm(directory, { recursive: true, force: true })
  }

  async #own(fsPath: string, labels: Labels, parentId: string | undefined): Promise<void> {
    const uid = mappedRoot(labels[LABELS.uidMapping])
    const gid = mappedRoot(labels[LABELS.gidMapping])
    const parent = parentId === undefined ? undefined : await lstat(this.fsPath(parentId))
    const owner = { uid: uid ?? parent?.uid ?? 0, gid: gid ?? parent?.gid ?? 0 }
    if (owner.uid !== process.geteuid?.() || owner.gid !== process.getegid?.())
      await chown(fsPath, owner.uid, owner.gid)
  }
}

/** The mode is set by itself: the process has a private umask. */
async function makeDirectory(directory: string, mode: number): Promise<void> {
  await mkdir(directory)
  await chmod(directory, mode)
}

/** Makes the entries of a directory durable, and what was made below before them. */
async function sync(directory: string): Promise<void> {
  const handle = await open(directory, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** False where a stored record tells of paths that are not those of its snapshot below this root. */
export function isOwnRecord(stateRoot: string, { spec, fuse, takenOver }: ImageRecord): boolean {
  const own = path.join(stateRoot, 'snapshots', spec.id)
  const mountpoint = path.join(own, 'mnt')
  return (
    COMPLETE.test(spec.id) &&
    spec.mountpoint === mountpoint &&
    path.normalize(spec.bootstrapPath) === spec.bootstrapPath &&
    spec.bootstrapPath.startsWith(path.join(own, 'fs/')) &&
    (fuse === undefined || [mountpoint, path.join(stateRoot, 'mnt')].includes(fuse.mountpoint)) &&
    (takenOver === undefined || [mountpoint, `${mountpoint}-erofs`].includes(takenOver))
  )
}
