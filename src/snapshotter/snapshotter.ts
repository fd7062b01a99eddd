import type { Logger } from '../common/log.js'
import { asFault, fault, isFault } from '../common/fault.js'
import type { Store } from '../common/store.js'
import { checkBootstrap, flushBootstrap } from './bootstrap.js'
import { type SkippedLayer, decideBase, decideLayer } from './decide.js'
import { Directories } from './directories.js'
import { parseFilters } from './filter.js'
import type { ImageLayer, Images } from './images.js'
import { LABELS } from './labels.js'
import { Metadata } from './metadata.js'
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
import type { SnapshotRecord } from './table.js'
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

  private constructor(options: SnapshotterOptions, metadata: Metadata, directories: Directories) {
    this.#options = options
    this.#metadata = metadata
    this.#directories = directories
    this.#reclaimer = new Reclaimer(directories, options.images, options.log)
  }

  /** @throws STORE_IO */
  static async open(options: SnapshotterOptions): Promise<Snapshotter> {
    const directories = await Directories.open(options.root)
    const metadata = await Metadata.open(options.store, await directories.readHighestId(), options.now)
    return new Snapshotter(options, metadata, directories)
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
    const fsPath = this.#directories.fsPath(active.id)
    if (LABELS.bootstrap in request.labels) {
      await checkBootstrap(fsPath)
      await flushBootstrap(fsPath)
    }
    await this.#metadata.commit(request, await readUsage(fsPath))
  }

  async remove(key: string): Promise<void> {
    const { id } = await this.#metadata.remove(key)
    const reclaimed = this.#reclaimer.reclaim(id)
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

  async cleanup(): Promise<void> {
    const orphans = await this.#directories.readOrphans(id => this.#metadata.hasId(id))
    await Promise.all(orphans.map(name => this.#reclaimer.reclaim(name)))
  }

  async close(): Promise<void> {
    await this.#reclaimer.close()
    await this.#metadata.idle()
  }

  async #create(kind: 'active' | 'view', request: CreateRequest): Promise<Mount[]> {
    const id = this.#metadata.nextId()
    const record = await this.#directories.create(
      id,
      {
        writable: kind === 'active',
        labels: request.labels,
        parentId: this.#metadata.get(request.parent)?.id,
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
    const ancestors = this.#metadata.ancestors(record.parent)
    const base = decideBase(record.labels, ancestors)
    const log = { snapshotKey: record.name, snapshotId: record.id, row: base.row }
    this.#options.log.info(log, 'mounts')
    const image = base.row === 'image' ? base.bootstrap : undefined
    const plain = image ? ancestors.slice(0, ancestors.indexOf(image)) : ancestors
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
    { id, labels }: SnapshotRecord,
    above: SnapshotRecord,
  ): Promise<Pick<MountInput, 'imagePath' | 'runtime'>> {
    const { images, runtimeMounts } = this.#options
    const layer: ImageLayer = {
      id,
      labels,
      fsPath: this.#directories.fsPath(id),
      mountPath: this.#directories.mountPath(id),
    }
    const imagePath = await images.ensureMounted(layer)
    if (!runtimeMounts) return { imagePath }
    const directory = this.#directories.path(above.id)
    return { imagePath, runtime: await runtimeMounts.mountOf(await images.specOf(layer), directory) }
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
