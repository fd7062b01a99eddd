import path from 'node:path'
import type { Logger } from '../common/log.js'
import type { Finding } from '../client/system-client.js'
import { asFault, fault, isFault } from '../common/fault.js'
import type { Store } from '../common/store.js'
import { checkBootstrap, flushBootstrap } from './bootstrap.js'
import { type SkippedLayer, decideBase, decideLayer } from './decide.js'
import { Directories } from './directories.js'
import { parseFilters } from './filter.js'
import type { ImageLayer, Images } from './images.js'
import { LABELS } from './labels.js'
import { damagedFault, Metadata, REMOVE_AND_PULL } from './metadata.js'
import { type MountInput, mountsOf } from './mounts.js'
import { Reclaimer } from './reclaimer.js'
import type { RuntimeMounts } from './runtime-mounts.js'
import type {
  CommitRequest,
  CreateRequest,
  Info,
  Mount,
  Nanoseconds,
  Snapshots,
  UpdateRequest,
  Usage,
} from './snapshots.js'
import type { SnapshotRecord } from './record.js'
import { readBlobUsage, readUsage } from './usage.js'

export interface SnapshotterOptions {
  /** State directory, absolute. */
  readonly root: string
  readonly store: Store
  /** Lazily read images. */
  readonly images: Images
  /** Tells runtimes what image is below; absent where mounts are plain overlays. */
  readonly runtimeMounts?: RuntimeMounts
  /** Where the chunk cache keeps its files. */
  readonly cacheDirectory: string
  /** Remove answers after the directory is gone. */
  readonly syncRemove: boolean
  readonly alwaysVolatile: boolean
  readonly now: () => Nanoseconds
  readonly log: Logger
}

/** Snapshots as directories for overlayfs, and as mounted images where layers are read lazily. */
export class Snapshotter implements Snapshots {
  readonly #options: SnapshotterOptions
  readonly #metadata: Metadata
  readonly #directories: Directories
  readonly #reclaimer: Reclaimer

  /** Directories that had no record when the process began, although it should be there if they are in use. */
  readonly #suspects: ReadonlySet<string>

  private constructor(
    options: SnapshotterOptions,
    metadata: Metadata,
    directories: Directories,
    suspects: ReadonlySet<string>,
  ) {
    this.#options = options
    this.#metadata = metadata
    this.#directories = directories
    this.#suspects = suspects
    this.#reclaimer = new Reclaimer(directories, options.images, options.log)
  }

  /** @throws STORE_IO; STORE_DAMAGED there are snapshots, and no state */
  static async open(options: SnapshotterOptions): Promise<Snapshotter> {
    const { root, store, now } = options
    const directories = await Directories.open(root)
    const ids = await directories.readIds()
    const highestId = ids.reduce((highest, id) => Math.max(highest, Number(id)), 0)
    const metadata = await Metadata.open(store, highestId, now)
    // Ids are written with the first change after they were given away: what is above them is of a lost change.
    const suspects = ids.filter(
      id => !metadata.hasId(id) && (store.damage.length > 0 || Number(id) > metadata.storedSequence),
    )
    if (store.isEmpty) await refuseWithoutState(root, directories, suspects)
    return new Snapshotter(options, metadata, directories, new Set(suspects))
  }

  async prepare(request: CreateRequest): Promise<Mount[]> {
    this.#metadata.checkCreate(request)
    const target = request.labels[LABELS.ref]
    if (target === undefined) return await this.#create('active', request)
    const layer = decideLayer(request.labels, target)
    this.#options.log.info({ snapshotKey: request.key, target, row: layer.row }, 'image layer')
    if (layer.row === 'data-blob') return await this.#skip(request, layer)
    return await this.#create('active', request)
  }

  async view(request: CreateRequest): Promise<Mount[]> {
    this.#metadata.checkCreate(request)
    return await this.#create('view', request)
  }

  async mounts(key: string): Promise<Mount[]> {
    const record = this.#metadata.require(key)
    if (record.kind === 'committed') {
      throw fault(
        'SNAPSHOT_STATE',
        `snapshot ${JSON.stringify(key)} is committed: only an active one or a view has mounts`,
      )
    }
    return await this.#mountsOf(record)
  }

  async commit(request: CommitRequest): Promise<void> {
    const active = this.#metadata.checkCommit(request)
    await this.#checkDirectory(active)
    const fsPath = this.#directories.fsPath(active.id)
    if (LABELS.bootstrap in request.labels) {
      await checkBootstrap(fsPath)
      await flushBootstrap(fsPath)
    }
    await this.#metadata.commit(request, await readUsage(fsPath))
  }

  async remove(key: string): Promise<void> {
    const ids = await this.#metadata.remove(key)
    const reclaimed = Promise.all(ids.map(id => this.#reclaimer.reclaim(id)))
    if (this.#options.syncRemove) await reclaimed
  }

  stat(key: string): Info {
    return this.#metadata.require(key)
  }

  async update(request: UpdateRequest): Promise<Info> {
    return await this.#metadata.update(request)
  }

  list(filters: readonly string[]): Info[] {
    const matches = parseFilters(filters)
    return this.#metadata.list().filter(matches)
  }

  async usage(key: string): Promise<Usage> {
    const record = this.#metadata.require(key)
    if (record.kind === 'active') return await readUsage(this.#directories.fsPath(record.id))
    const digest = record.labels[LABELS.layerDigest]
    if (!(LABELS.blob in record.labels) || digest === undefined) return record.usage
    const cached = await readBlobUsage(this.#options.cacheDirectory, digest.replace(/^sha256:/, ''))
    return {
      sizeBytes: record.usage.sizeBytes + cached.sizeBytes,
      inodes: record.usage.inodes + cached.inodes,
    }
  }

  /** What is damaged: a finding for each such snapshot, and for each directory that belongs to none. */
  async check(): Promise<Finding[]> {
    const findings: Finding[] = this.#metadata.listDamaged().map(({ name, reason }) => ({
      area: 'snapshot',
      subject: name,
      problem: reason,
      next: REMOVE_AND_PULL,
    }))
    // One at a time: there may be thousands, and containers come first.
    for (const record of this.#metadata.list()) {
      const problem = await this.#problemOf(record)
      if (problem !== undefined)
        findings.push({ area: 'snapshot', subject: record.name, problem, next: REMOVE_AND_PULL })
    }
    const found = (subject: string, problem: string, next: string): Finding => ({
      area: 'directory',
      subject,
      problem,
      next,
    })
    for (const directory of await this.#directories.readLost())
      findings.push(
        found(
          directory,
          'it was in use and has no record, since the state was damaged',
          'delete it when nobody needs it',
        ),
      )
    for (const name of await this.#directories.readOrphans(id => this.#metadata.hasId(id)))
      findings.push(
        found(this.#directories.path(name), 'it belongs to no snapshot', 'the next Cleanup deletes it'),
      )
    return findings
  }

  async cleanup(): Promise<void> {
    const orphans = await this.#directories.readOrphans(id => this.#metadata.hasId(id))
    await Promise.all(orphans.map(name => this.#cleanUp(name)))
  }

  async close(): Promise<void> {
    await this.#reclaimer.close()
    await this.#metadata.idle()
  }

  async #create(kind: 'active' | 'view', request: CreateRequest): Promise<Mount[]> {
    const id = this.#metadata.nextId()
    const parent = this.#metadata.get(request.parent)
    if (parent) await this.#checkDirectory(parent)
    const record = await this.#directories.create(
      id,
      {
        writable: kind === 'active',
        labels: request.labels,
        parentId: parent?.id,
      },
      () => this.#metadata.create(id, kind, request),
    )
    try {
      return await this.#mountsOf(record)
    } catch (err) {
      await this.#undo(record)
      throw err
    }
  }

  /** Commits a layer that nobody has to unpack, and says so in the way that the protocol asks for. */
  async #skip(request: CreateRequest, { target }: SkippedLayer): Promise<never> {
    if (!this.#metadata.get(target)) {
      const id = this.#metadata.nextId()
      const parentId = this.#metadata.get(request.parent)?.id
      try {
        await this.#directories.create(id, { writable: false, labels: request.labels, parentId }, () =>
          this.#metadata.createCommitted(id, target, request),
        )
      } catch (err) {
        // Somebody else was faster, or the key is taken: the same answer.
        if (!isFault(err, 'SNAPSHOT_EXISTS')) throw err
      }
    }
    throw fault('SNAPSHOT_EXISTS', `target snapshot ${JSON.stringify(target)} already exists`)
  }

  async #mountsOf(record: SnapshotRecord): Promise<Mount[]> {
    const ancestors = this.#metadata.ancestors(record)
    const base = decideBase(record.labels, ancestors)
    const log = { snapshotKey: record.name, snapshotId: record.id, row: base.row }
    this.#options.log.info(log, 'mounts')
    const image = base.row === 'image' ? base.bootstrap : undefined
    const plain = image ? ancestors.slice(0, ancestors.indexOf(image)) : ancestors
    await Promise.all([record, ...plain].map(one => this.#checkDirectory(one)))
    return mountsOf({
      kind: record.kind,
      labels: record.labels,
      upperPath: this.#directories.fsPath(record.id),
      workPath: this.#directories.workPath(record.id),
      lowerPaths: plain.map(({ id }) => this.#directories.fsPath(id)),
      alwaysVolatile: this.#options.alwaysVolatile,
      ...(image ? await this.#mountImage(image, record) : {}),
    })
  }

  /** The part of a snapshot's mounts that the image below it decides. */
  async #mountImage(
    { id, name, labels }: SnapshotRecord,
    above: SnapshotRecord,
  ): Promise<Pick<MountInput, 'imagePath' | 'runtime'>> {
    const { images, runtimeMounts } = this.#options
    const layer: ImageLayer = {
      id,
      labels,
      fsPath: this.#directories.fsPath(id),
      mountPath: this.#directories.mountPath(id),
    }
    const imagePath = await images.ensureMounted(layer).catch((err: unknown) => {
      throw isFault(err) && err.code.startsWith('RAFS_') ? damagedFault(name, err.message, err) : err
    })
    if (!runtimeMounts) return { imagePath }
    const directory = this.#directories.path(above.id)
    return { imagePath, runtime: await runtimeMounts.mountOf(await images.specOf(layer), directory) }
  }

  async #problemOf(record: SnapshotRecord): Promise<string | undefined> {
    try {
      this.#metadata.ancestors(record)
      await this.#checkDirectory(record)
      if (record.kind === 'committed' && LABELS.bootstrap in record.labels)
        await checkBootstrap(this.#directories.fsPath(record.id))
      return undefined
    } catch (err) {
      return asFault(err).message
    }
  }

  /** @throws SNAPSHOT_DAMAGED */
  async #checkDirectory({ id, name, kind }: SnapshotRecord): Promise<void> {
    const problem = await this.#directories.problemOf(id, { writable: kind === 'active' })
    if (problem !== undefined) throw damagedFault(name, problem)
  }

  /** Gives a directory back that belongs to no snapshot, unless somebody's files may be in it. */
  async #cleanUp(name: string): Promise<void> {
    if (!this.#suspects.has(name) || !(await this.#directories.isUsed(name))) {
      await this.#reclaimer.reclaim(name)
      return
    }
    const directory = await this.#directories.setAside(name)
    this.#options.log.error(
      { directory },
      'a directory in use has no record, since the state was damaged: it is set aside, delete it when nobody needs it',
    )
  }

  /** Takes back a snapshot that was made and cannot be mounted, so that the same call can be tried again. */
  async #undo({ name, id }: SnapshotRecord): Promise<void> {
    try {
      await this.#metadata.remove(name)
      await this.#reclaimer.reclaim(id)
    } catch (err) {
      this.#options.log.warn({ snapshotKey: name, err: asFault(err) }, 'snapshot cannot be taken back')
    }
  }
}

/**
 * A new state beside directories of snapshots: it was lost, or they are another snapshotter's. To begin anew would be to
 * delete them.
 * @throws STORE_DAMAGED
 */
async function refuseWithoutState(
  root: string,
  directories: Directories,
  suspects: readonly string[],
): Promise<void> {
  for (const id of suspects)
    if (await directories.isUsed(id))
      throw fault(
        'STORE_DAMAGED',
        `${root} has ${suspects.length} directories of snapshots and no state that tells of them: restore ` +
          `${path.join(root, 'state')}, or move ${directories.path('')} away, remove the images in containerd and pull again`,
      )
}
