/**
 * The supervisor: one shared daemon, one EROFS mount an image, and a second holder of every kernel descriptor.
 *
 * Invariants: nothing is mounted before its descriptors have a second holder; mounts are made one at a time; an instance
 * is released only when its superblock is gone; nothing that may wait for the daemon runs on this thread; no credential
 * is stored.
 */
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { BlobCacheEntry } from '../client/api.js'
import type { InstanceName } from '../client/daemon-client.js'
import { asFault, isFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { isErofsMounted, mountInstance, proveInterception, unmountAll } from './erofs-mount.js'
import type { BackendConfigSource, ImageMounts, ImageSpec, MountedImage } from './image-mounts.js'
import { type KnownImage, SharedDaemon, type SharedDaemonOptions } from './shared-daemon.js'
import { listSuperblocks, superblocksGone } from './superblock.js'

export interface SupervisorOptions extends SharedDaemonOptions {
  /** The snapshotter's root: the domain of its images is derived from it. */
  readonly root: string
  readonly backendConfig: BackendConfigSource
}

/** What is stored of an image; everything else is asked for again. */
interface ImageRecord {
  spec: ImageSpec
  /** Fresh per mount: bootstrap digest and generation. */
  fsid: string
  /**
   * Names below /sys/fs/erofs, once mounted: its superblock, and any that somebody else mounted at the same moment. It
   * counts as gone when all of them are.
   */
  superblocks: string[]
  state: 'mounting' | 'mounted' | 'releasing'
}

/** How long a stop with clean-up waits for containers to let go of images. */
const RELEASE_TIMEOUT_MS = 5_000

const GENERATION_KEY = 'supervisor/generation'
const MOUNTED_PREFIX = 'supervisor/instance/'
const RELEASING_PREFIX = 'supervisor/releasing/'
const mountedKey = (id: string): string => `${MOUNTED_PREFIX}${id}`
const releasingKey = (fsid: string): string => `${RELEASING_PREFIX}${fsid}`

export class Supervisor implements ImageMounts {
  readonly #options: SupervisorOptions
  readonly #logger: Logger
  readonly #domainId: string
  readonly #daemon: SharedDaemon
  readonly #images = new Map<string, ImageRecord>()
  /** Unmounted images whose superblock is not gone yet, by fsid. */
  readonly #releasing = new Map<string, ImageRecord>()
  readonly #releases = new Set<Promise<void>>()
  readonly #closing = new AbortController()
  #started: Promise<void> | undefined
  #queue: Promise<unknown> = Promise.resolve()

  constructor(options: SupervisorOptions) {
    this.#options = options
    this.#logger = options.logger
    this.#domainId = `nydus-${createHash('sha256').update(options.root).digest('hex').slice(0, 16)}`
    this.#daemon = new SharedDaemon(options, () => this.#knownImages())
  }

  start(): Promise<void> {
    // What failed (no daemon, no driver) may be mended meanwhile: the next call tries again.
    this.#started ??= this.#recover().catch((err: unknown) => {
      this.#started = undefined
      throw err
    })
    return this.#started
  }

  async mount(spec: ImageSpec): Promise<MountedImage> {
    return this.#serially(async () => {
      await this.start()
      const known = this.#images.get(spec.id)
      return this.#describe(known?.state === 'mounted' ? known : await this.#mountNew(spec))
    })
  }

  async unmount(id: string): Promise<void> {
    return this.#serially(async () => {
      const record = this.#images.get(id)
      if (record) await this.#unmount(record)
    })
  }

  get(id: string): MountedImage | undefined {
    const record = this.#images.get(id)
    return record?.state === 'mounted' ? this.#describe(record) : undefined
  }

  list(): MountedImage[] {
    return [...this.#images.values()].filter(({ state }) => state === 'mounted').map(r => this.#describe(r))
  }

  /** Resolves when nobody uses any more what was unmounted. */
  async released(): Promise<void> {
    await Promise.all(this.#releases)
  }

  async close(options: { cleanup: boolean }): Promise<void> {
    if (options.cleanup) {
      for (const id of [...this.#images.keys()]) await this.unmount(id)
      await Promise.race([Promise.all(this.#releases), delay(RELEASE_TIMEOUT_MS, undefined, { ref: false })])
    }
    this.#closing.abort()
    await this.#started?.catch(() => undefined)
    if (options.cleanup) {
      // A daemon that ends under a container would leave it zeros or errors to read.
      if (this.#releasing.size === 0) await this.#daemon.stop()
      else
        this.#logger.warn(
          { images: this.#releasing.size },
          'images are still in use: the daemon is left running',
        )
    }
    await this.#daemon.close()
  }

  async #mountNew(spec: ImageSpec): Promise<ImageRecord> {
    const { store } = this.#options
    const generation = ((await store.get<number>(GENERATION_KEY)) ?? 0) + 1
    const record: ImageRecord = {
      spec,
      fsid: freshFsid(spec.bootstrapPath, generation),
      superblocks: [],
      state: 'mounting',
    }
    await store.write([
      { type: 'put', key: GENERATION_KEY, value: generation },
      { type: 'put', key: mountedKey(spec.id), value: record },
    ])
    const entry = await this.#entryOf(record)
    try {
      await this.#bind(record, entry)
      const instance = await this.#daemon.call(client => client.instance(this.#name(record)))
      record.superblocks = await mountInstance(instance, spec.mountpoint, this.#logger)
      await proveInterception(instance, spec.mountpoint)
      await this.#daemon.call(client => client.mounted(this.#name(record)))
    } catch (err) {
      this.#images.delete(spec.id)
      await this.#undo(record)
      throw err
    }
    record.state = 'mounted'
    await store.write([{ type: 'put', key: mountedKey(spec.id), value: record }])
    this.#logger.info(
      { imageRef: spec.imageRef, mountpoint: spec.mountpoint, driver: this.#daemon.driver },
      'image mounted',
    )
    return record
  }

  /** Makes the image known to the daemon, and to a successor of it from here on. */
  async #bind(record: ImageRecord, entry: BlobCacheEntry): Promise<void> {
    await this.#daemon.call(async client => {
      try {
        await client.bind(entry)
      } catch (err) {
        // A successor that came up meanwhile knows it already.
        if (!isFault(err, 'INSTANCE_EXISTS')) throw err
      }
      this.#images.set(record.spec.id, record)
      await this.#daemon.keepDescriptors()
    })
  }

  async #undo(record: ImageRecord): Promise<void> {
    try {
      await unmountAll(record.spec.mountpoint)
      await this.#unbind(record)
      await this.#options.store.write([{ type: 'del', key: mountedKey(record.spec.id) }])
    } catch (err) {
      this.#logger.warn({ err: asFault(err) }, 'a failed mount left something')
    }
  }

  async #unmount(record: ImageRecord): Promise<void> {
    await unmountAll(record.spec.mountpoint)
    this.#images.delete(record.spec.id)
    record.state = 'releasing'
    await this.#options.store.write([
      { type: 'del', key: mountedKey(record.spec.id) },
      { type: 'put', key: releasingKey(record.fsid), value: record },
    ])
    this.#release(record)
  }

  /** Lets the daemon go of an image when its superblock is gone; goes on behind the caller's back. */
  #release(record: ImageRecord): void {
    this.#releasing.set(record.fsid, record)
    const released = async (): Promise<void> => {
      await superblocksGone(record.superblocks, this.#closing.signal)
      await this.#unbind(record)
      this.#releasing.delete(record.fsid)
      await this.#daemon.keepDescriptors()
      await this.#options.store.write([{ type: 'del', key: releasingKey(record.fsid) }])
      this.#logger.info({ imageRef: record.spec.imageRef }, 'image released')
    }
    const release = released()
      .catch((err: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#logger.error({ err: asFault(err) }, 'an image was not released')
      })
      .finally(() => this.#releases.delete(release))
    this.#releases.add(release)
  }

  async #unbind(record: ImageRecord): Promise<void> {
    try {
      await this.#daemon.call(client => client.unbind(this.#name(record)))
    } catch (err) {
      if (!isFault(err, 'INSTANCE_UNKNOWN')) throw err
    }
  }

  /** Takes back what an earlier run left: images that are mounted, and those that only containers keep alive. */
  async #recover(): Promise<void> {
    const { store } = this.#options
    const alive = listSuperblocks()
    for (const [key, record] of await store.list<ImageRecord>(MOUNTED_PREFIX)) {
      if (record.state === 'mounted' && isErofsMounted(record.spec.mountpoint)) {
        this.#images.set(record.spec.id, record)
      } else {
        await unmountAll(record.spec.mountpoint)
        await store.write([{ type: 'del', key }])
      }
    }
    for (const [key, record] of await store.list<ImageRecord>(RELEASING_PREFIX)) {
      if (record.superblocks.some(name => alive.has(name))) this.#releasing.set(record.fsid, record)
      else await store.write([{ type: 'del', key }])
    }
    const adopted = await this.#daemon.start()
    if (!adopted && this.#images.size + this.#releasing.size > 0) await this.#fence()
    for (const record of this.#releasing.values()) this.#release(record)
  }

  /**
   * Daemon and keeper died together: nobody held the descriptors. On fanotify holes may have been read as zeros into the
   * page cache: the new daemon has marked the files again, and what is cached is dropped. On fscache the mounts are dead
   * for good: they are taken away, so that new containers get new ones.
   */
  async #fence(): Promise<void> {
    this.#logger.error(
      { images: this.#images.size + this.#releasing.size, driver: this.#daemon.driver },
      'daemon and supervisor were both gone while images were mounted: restart containers that read files at that time',
    )
    if (this.#daemon.driver === 'fanotify') writeFileSync('/proc/sys/vm/drop_caches', '1')
    else for (const record of [...this.#images.values()]) await this.#unmount(record)
  }

  /** What a new daemon must know before it serves: what is mounted, being mounted, or kept alive by containers. */
  async #knownImages(): Promise<KnownImage[]> {
    const known: KnownImage[] = []
    for (const record of [...this.#images.values(), ...this.#releasing.values()]) {
      try {
        const entry = await this.#entryOf(record)
        known.push({ name: this.#name(record), entry, mounted: record.state !== 'mounting' })
      } catch (err) {
        this.#logger.error(
          { err: asFault(err), imageRef: record.spec.imageRef },
          'an image has no backend any more',
        )
      }
    }
    return known
  }

  async #entryOf(record: ImageRecord): Promise<BlobCacheEntry> {
    const { spec, fsid } = record
    const backend = await this.#options.backendConfig(spec)
    return {
      type: 'bootstrap',
      id: fsid,
      domain_id: this.#domainId,
      config: {
        id: fsid,
        backend_type: backend.type,
        backend_config: backend.config,
        cache_type: 'fscache',
        cache_config: { work_dir: this.#options.cacheDirectory },
        metadata_path: spec.bootstrapPath,
      },
      prober_pid: process.pid,
    }
  }

  #name(record: ImageRecord): InstanceName {
    return { domainId: this.#domainId, id: record.fsid }
  }

  #describe(record: ImageRecord): MountedImage {
    return { ...record.spec, driver: this.#daemon.driver }
  }

  /** One at a time, in order; a failure is its caller's alone. */
  #serially<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#queue.then(task, task)
    this.#queue = run.catch(() => undefined)
    return run
  }
}

function freshFsid(bootstrapPath: string, generation: number): string {
  return createHash('sha256')
    .update(readFileSync(bootstrapPath))
    .update(`generation ${generation}`)
    .digest('hex')
}
