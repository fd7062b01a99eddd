import { chmod, chown, lstat, mkdir, mkdtemp, open, readdir, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { fault, hasErrno } from '../common/fault.js'
import { readMountTable } from '../native/mount-table.js'
import { LABELS, mappedRoot } from './labels.js'
import type { Labels } from './snapshots.js'

/** Directories that are being made carry the id they are made for, so that nobody takes them for left-overs. */
const TEMPORARY = /^new-(\d+)-/

/**
 * The directories of the snapshots: `<root>/snapshots/<id>` with `fs`, the layer's content; `work` beside it for
 * overlayfs, where the snapshot was made for writing; and `mnt`, where a lazily read image is mounted.
 *
 * A directory with a decimal name is complete and on the disk. One that no record tells of is an orphan.
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

  /** The highest id that a directory has, 0 without any. */
  async readHighestId(): Promise<number> {
    const ids = (await readdir(this.#root)).map(name => Number(TEMPORARY.exec(name)?.[1] ?? name))
    return ids.filter(Number.isSafeInteger).reduce((highest, id) => Math.max(highest, id), 0)
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

  /** Names of the directories that belong to no snapshot. */
  async readOrphans(isRecorded: (id: string) => boolean): Promise<string[]> {
    return (await readdir(this.#root)).filter(name => {
      const id = TEMPORARY.exec(name)?.[1]
      if (this.#unrecorded.has(id ?? name)) return false
      return id !== undefined || !isRecorded(name)
    })
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
