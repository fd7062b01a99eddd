/**
 * The supervisor: daemons, one mount an image, and a second holder of every kernel descriptor.
 *
 * Invariants: mounts are made one at a time; the daemon lets go of an image only when its superblock is gone; nothing
 * that may wait for a daemon runs on this thread.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { asFault, fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { findFuseMount } from '../native/mount-table.js'
import { readRafsVersion } from './bootstrap-file.js'
import { type DaemonStatus, fetchReadDataKb, imageStatus, readMemoryRssKb } from './daemon-status.js'
import { identify } from './daemon-process.js'
import { Daemons, type DaemonsOptions, SHARED } from './daemons.js'
import { isErofsMounted, unmountAll } from './erofs-mount.js'
import { DEFAULT_FUSE_TEMPLATE } from './fuse-config.js'
import { FusePath } from './fuse-path.js'
import type {
  BackendConfig,
  BackendConfigSource,
  DescriptorPlace,
  ImageMounts,
  ImageSpec,
  MountedImage,
  Problem,
} from './image-mounts.js'
import {
  freshFsid,
  type FusePlace,
  GENERATION_KEY,
  type ImageRecord,
  mountedKey,
  readImageRecords,
  releasingKey,
} from './image-record.js'
import { KernelPath } from './kernel-path.js'
import { countDriver, countFallback, countImages } from './metrics.js'
import type { WrongMapping } from './mend.js'
import type { ServingPath } from './serving-path.js'
import { listSuperblocks, superblocksGone } from './superblock.js'
import { checkProgram, linkProgram, readProgramCommit } from './program.js'
import type { KnownImage, WatchedDaemon, WatchedStatus } from './watched-daemon.js'

export interface SupervisorOptions extends DaemonsOptions {
  /** The snapshotter's root: the domain of its images is derived from it. */
  readonly root: string
  readonly backendConfig: BackendConfigSource
  /** False for a stored record that cannot be of this root: it is not followed. */
  readonly isOwn?: (record: ImageRecord) => boolean
  /** Files of an image to fetch at its next mount by FUSE; asked once for each mount. */
  readonly takePrefetchFiles?: (imageRef: string) => readonly string[]
}

const BOOT_KEY = 'supervisor/boot'
const WRONG_KEY = 'supervisor/wrong-mappings'
/** An image whose daemon keeps dying is released after longer and longer pauses. */
const RELEASE_PAUSE_MAX_MS = 30_000
/** How long a stop with clean-up waits for containers to let go of images. */
const RELEASE_TIMEOUT_MS = 10_000

export class Supervisor implements ImageMounts {
  readonly #options: SupervisorOptions
  readonly #logger: Logger
  readonly #daemons: Daemons
  readonly #kernel: KernelPath
  readonly #fuse: FusePath
  readonly #images = new Map<string, ImageRecord>()
  /** Unmounted images whose superblock is not gone yet, by fsid. */
  readonly #releasing = new Map<string, ImageRecord>()
  readonly #releases = new Set<Promise<void>>()
  /** Of an earlier run that died while it mounted them: nobody has them, but the daemon may. */
  readonly #cutShort: ImageRecord[] = []
  /** Why records are not followed, by their keys. */
  readonly #damaged = new Map<string, string>()
  /** Why images cannot be served, by their references. */
  readonly #unserved = new Map<string, string>()
  readonly #closing = new AbortController()
  #started: Promise<void> | undefined
  #queue: Promise<unknown> = Promise.resolve()
  /** Pending while mounts that were lost are mended: no container gets one before. */
  #fenced: Promise<void> = Promise.resolve()

  constructor(options: SupervisorOptions) {
    this.#options = options
    this.#logger = options.logger
    this.#daemons = new Daemons(options, {
      knownImages: key => this.#knownImages(key),
      lost: key => {
        const records = this.#recordsOf(key).filter(({ fuse }) => !fuse)
        if (records.length > 0) this.#fenced = this.#serially(() => this.#fence(this.#daemons.shared, true))
      },
    })
    this.#kernel = new KernelPath(options, () => this.#daemons.shared)
    this.#fuse = new FusePath(
      { ...options, fuseTemplate: options.fuse?.template ?? DEFAULT_FUSE_TEMPLATE },
      ({ daemon, mountpoint }) => this.#daemons.serving(daemon, mountpoint),
    )
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
    await this.#fenced
    const ready = this.#images.get(spec.id)
    if (ready?.state === 'mounted' && !this.#fuse.mayTakeOver(ready)) return this.#describe(ready)
    return this.#serially(async () => {
      await this.start()
      const known = this.#images.get(spec.id)
      const record = known?.state === 'mounted' ? known : await this.#mountNew(spec)
      if (await this.#fuse.takeOver(record)) await this.#save(record)
      return this.#describe(record)
    })
  }

  async unmount(id: string): Promise<void> {
    return this.#serially(async () => {
      const record = this.#images.get(id)
      if (!record) {
        await this.#forgetDamaged(id)
        return
      }
      record.discard = true
      await this.#unmount(record)
    })
  }

  get(id: string): MountedImage | undefined {
    const record = this.#images.get(id)
    return record?.state === 'mounted' ? this.#describe(record) : undefined
  }

  list(): MountedImage[] {
    return [...this.#images.values()].filter(({ state }) => state === 'mounted').map(r => this.#describe(r))
  }

  /** The shared one first. */
  async daemons(): Promise<DaemonStatus[]> {
    return Promise.all(this.#daemons.list().map(([key, daemon]) => this.#statusOf(key, daemon)))
  }

  async backendOf(id: string): Promise<BackendConfig | undefined> {
    const record = this.#images.get(id)
    return record && this.#options.backendConfig(record.spec)
  }

  /** Every kernel descriptor, and who has it. */
  descriptors(): Promise<DescriptorPlace[]> {
    return this.#daemons.descriptors()
  }

  /**
   * Puts daemons of a program in the place of all that run, one after the other; the first failure ends it. The
   * configured path becomes a link to the program, so that it stays after a restart.
   * @param nydusdPath empty: what is configured, started anew
   * @returns how long nobody served, milliseconds, for each daemon
   * @throws UPGRADE_FAILED, FILE_MISSING
   */
  async upgrade(nydusdPath: string): Promise<number[]> {
    await this.start()
    const { nydusdPath: configured } = this.#options
    if (nydusdPath !== '') checkProgram(nydusdPath)
    const path = nydusdPath === '' ? configured : nydusdPath
    const stalls = await this.#upgradeTo(path, () => true)
    this.#daemons.nydusdPath = path
    if (configured !== '' && nydusdPath !== '') linkProgram(configured, nydusdPath)
    return stalls
  }

  /** Mounts and unmounts wait for one daemon at a time. */
  async #upgradeTo(path: string, isMeant: (status: WatchedStatus) => boolean): Promise<number[]> {
    const stalls: number[] = []
    for (const [id, daemon] of this.#daemons.list()) {
      await this.#serially(async () => {
        if (daemon.status.pid === 0 || !isMeant(daemon.status)) return
        const { commit } = daemon.status
        const stallMs = await daemon.upgrade(path)
        stalls.push(stallMs)
        this.#logger.info({ daemon: id, stallMs, from: commit, to: daemon.status.commit }, 'daemon upgraded')
      })
    }
    return stalls
  }

  /** Daemons of an earlier run may be of an earlier program. */
  async #upgradeAdopted(): Promise<void> {
    try {
      const { nydusdPath } = this.#options
      const commit = await readProgramCommit(nydusdPath)
      if (commit === undefined) return
      await this.#upgradeTo(nydusdPath, status => status.commit !== commit)
    } catch (err) {
      this.#logger.error({ err: asFault(err) }, 'a daemon of an earlier version serves on')
    }
  }

  /** What an operator has to know, for `nydusctl doctor`. */
  problems(): Problem[] {
    const damaged = [...this.#damaged].map(([key, reason]) => ({
      subject: key,
      problem: `the record of a mounted image is not followed: ${reason}`,
      next: 'start a container of the image, which mounts it anew, or remove the image',
    }))
    const unserved = [...this.#unserved].map(([subject, problem]) => ({
      subject,
      problem: `its reads fail: ${problem}`,
      next: 'mend that, and start the containers of the image again',
    }))
    return [...damaged, ...unserved]
  }

  /** Resolves when nobody uses any more what was unmounted. */
  async released(): Promise<void> {
    await Promise.all(this.#releases)
  }

  async close(options: { cleanup: boolean }): Promise<void> {
    if (options.cleanup) {
      for (const record of [...this.#images.values()]) await this.#serially(() => this.#unmount(record))
      await Promise.race([Promise.all(this.#releases), delay(RELEASE_TIMEOUT_MS, undefined, { ref: false })])
    }
    this.#closing.abort()
    await this.#started?.catch(() => undefined)
    if (options.cleanup && this.#daemons.hasShared) {
      // A daemon that ends under a container would leave it zeros or errors to read.
      if (this.#releasing.size === 0) await this.#daemons.end(SHARED, this.#options.fuse?.mountpoint, false)
      else
        this.#logger.warn(
          { images: this.#releasing.size },
          'images are still in use: the daemon is left running',
        )
    }
    await this.#daemons.close({ end: options.cleanup })
  }

  async #mountNew(spec: ImageSpec): Promise<ImageRecord> {
    const { store } = this.#options
    const generation = ((await store.get<number>(GENERATION_KEY)) ?? 0) + 1
    const fuse = this.#placeFor(spec)
    const record: ImageRecord = {
      spec,
      fsid: freshFsid(spec.bootstrapPath, generation),
      superblocks: [],
      state: 'mounting',
      ...(fuse ? { fuse } : {}),
    }
    await store.write([
      { type: 'put', key: GENERATION_KEY, value: generation },
      { type: 'put', key: mountedKey(spec.id), value: record },
    ])
    try {
      if (fuse && fuse.daemon !== SHARED) await this.#daemons.get(fuse.daemon, fuse.mountpoint).launch()
      await this.#pathOf(record).mount(record, () => this.#images.set(spec.id, record))
    } catch (err) {
      this.#images.delete(spec.id)
      await this.#undo(record)
      throw err
    }
    record.state = 'mounted'
    await this.#save(record)
    this.#damaged.delete(mountedKey(spec.id))
    this.#unserved.delete(spec.imageRef)
    const { driver, mountpoint } = this.#describe(record)
    const requested = this.#options.driver
    const fallback = fuse && requested !== 'fuse' ? (fuse.version === 5 ? 'rafs-v5' : 'kernel') : undefined
    if (fallback) countFallback(requested, fallback)
    this.#logger.info(
      { imageRef: spec.imageRef, mountpoint, driver, ...(fallback && { requested, fallback }) },
      'image mounted',
    )
    return record
  }

  /**
   * Where FUSE is to show an image; undefined for one that a kernel path serves.
   * @throws RAFS_UNSUPPORTED only FUSE could serve it, and is not set up
   */
  #placeFor(spec: ImageSpec): FusePlace | undefined {
    const { fuse, driver } = this.#options
    const version = readRafsVersion(spec.bootstrapPath)
    const byKernel = version === 6 && driver !== 'fuse' && this.#daemons.shared.driver !== 'fuse'
    if (byKernel) return undefined
    if (!fuse)
      throw fault('RAFS_UNSUPPORTED', 'this image is RAFS v5, which no kernel mounts: convert it to RAFS v6')
    return this.#daemons.hasShared
      ? { daemon: SHARED, mountpoint: fuse.mountpoint, path: `/${spec.id}`, version }
      : { daemon: spec.id, mountpoint: spec.mountpoint, path: '/', version }
  }

  async #undo(record: ImageRecord): Promise<void> {
    try {
      const path = this.#pathOf(record)
      await path.unmount(record)
      await path.release(record)
      await this.#options.store.write([{ type: 'del', key: mountedKey(record.spec.id) }])
    } catch (err) {
      this.#logger.warn({ err: asFault(err) }, 'a failed mount left something')
    }
  }

  async #unmount(record: ImageRecord): Promise<void> {
    await this.#pathOf(record).unmount(record)
    this.#images.delete(record.spec.id)
    await this.#moveToReleasing(record)
    countImages(this.list())
    this.#release(record)
  }

  async #moveToReleasing(record: ImageRecord): Promise<void> {
    record.state = 'releasing'
    this.#releasing.set(record.fsid, record)
    await this.#options.store.write([
      { type: 'del', key: mountedKey(record.spec.id) },
      { type: 'put', key: releasingKey(record.fsid), value: record },
    ])
  }

  /** Lets the daemon go of an image when its superblock is gone; goes on behind the caller's back. */
  #release(record: ImageRecord): void {
    const released = async (): Promise<void> => {
      await superblocksGone(record.superblocks, this.#closing.signal)
      await this.#letGo(record)
      this.#releasing.delete(record.fsid)
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

  /** A daemon that dies under it, and its successor too, may be followed by one that does not. */
  async #letGo(record: ImageRecord): Promise<void> {
    for (let pauseMs = 100; ; pauseMs = Math.min(pauseMs * 2, RELEASE_PAUSE_MAX_MS)) {
      try {
        return await this.#pathOf(record).release(record)
      } catch (err) {
        if (asFault(err).code !== 'DAEMON_UNAVAILABLE') throw err
        this.#logger.warn({ err: asFault(err), imageRef: record.spec.imageRef }, 'an image is released later')
      }
      await delay(pauseMs, undefined, { signal: this.#closing.signal, ref: false })
    }
  }

  /** Takes back what an earlier run left: images that are mounted, and those that only containers keep alive. */
  async #recover(): Promise<void> {
    await this.#forgetOtherBoot()
    const { records, damaged } = await readImageRecords(
      this.#options.store,
      this.#options.isOwn ?? (() => true),
    )
    for (const { key, reason } of damaged) {
      this.#damaged.set(key, reason)
      this.#logger.error({ key, reason }, 'the record of a mounted image is damaged and not followed')
    }
    await this.#daemons.holders.open()
    const daemons = new Map<string, string | undefined>()
    if (this.#daemons.hasShared) daemons.set(SHARED, this.#options.fuse?.mountpoint)
    for (const record of records) daemons.set(daemonOf(record), record.fuse?.mountpoint)
    for (const [key, mountpoint] of daemons) {
      const own = records.filter(record => daemonOf(record) === key)
      await this.#recoverDaemon(key, mountpoint, own)
    }
    await this.#daemons.holders.forgetSurvivors()
    for (const record of this.#cutShort.splice(0)) await this.#undo(record)
    if (this.#daemons.hasShared) this.#tellDriver(this.#daemons.shared)
    countImages(this.list())
    for (const record of this.#releasing.values()) this.#release(record)
    // Nobody waits for it: what is served is served by the old ones meanwhile.
    void this.#upgradeAdopted()
  }

  async #recoverDaemon(
    key: string,
    mountpoint: string | undefined,
    records: readonly ImageRecord[],
  ): Promise<void> {
    const wanted = key === SHARED && this.#daemons.hasShared
    let daemon = this.#daemons.get(key, mountpoint)
    let adopted = await daemon.adopt()
    if (adopted && !daemon.isAsConfigured && records.length === 0) {
      await this.#daemons.end(key, mountpoint, false)
      daemon = this.#daemons.get(key, mountpoint)
      adopted = false
    }
    // What was kept of a dead daemon is as good as the daemon: a successor answers there.
    const serves = (record: ImageRecord): boolean => adopted || daemon.keeps(record.fuse ? 'fuse' : 'kernel')
    for (const record of records) await this.#takeBack(record, serves(record))
    if (adopted) return
    const lost = !daemon.keeps('fuse') && mountpoint !== undefined && findFuseMount(mountpoint) !== undefined
    const kernelKept = daemon.keeps('kernel')
    if (!wanted && this.#recordsOf(key).length === 0) {
      await this.#daemons.forget(key, mountpoint)
      if (lost) await this.#fence(daemon, false)
      return
    }
    const continued = await daemon.launch()
    const kernelLost = !(continued && kernelKept) && this.#recordsOf(key).some(({ fuse }) => !fuse)
    if (lost || kernelLost || (!continued && this.#recordsOf(key).length > 0))
      await this.#fence(daemon, kernelLost)
  }

  /**
   * Keeps a record of an earlier run if what it tells of is still there; else clears it away.
   * @param served by the daemon of that time, or by a successor that gets its descriptors
   */
  async #takeBack(record: ImageRecord, served: boolean): Promise<void> {
    const { spec, fuse, fsid } = record
    if (record.state === 'releasing') {
      const alive = listSuperblocks()
      const held = fuse ? served : record.superblocks.some(name => alive.has(name))
      if (held) this.#releasing.set(fsid, record)
      else await this.#options.store.write([{ type: 'del', key: releasingKey(fsid) }])
      return
    }
    if (record.takenOver !== undefined && !(served && isErofsMounted(record.takenOver))) {
      await unmountAll(record.takenOver)
      delete record.takenOver
      record.superblocks = []
    }
    const there = fuse ? served && findFuseMount(fuse.mountpoint) : isErofsMounted(spec.mountpoint)
    if (record.state === 'mounted' && there) {
      this.#images.set(spec.id, record)
      return
    }
    if (!fuse) await unmountAll(spec.mountpoint)
    if (!served) await this.#options.store.write([{ type: 'del', key: mountedKey(spec.id) }])
    else if (fuse || record.state === 'mounting') this.#cutShort.push(record)
    else await this.#moveToReleasing(record)
  }

  /** Says by which way images are mounted here, and why by none that was rather wanted. */
  #tellDriver({ driver, passedOver, isAsConfigured }: WatchedDaemon): void {
    const requested = this.#options.driver
    countDriver(requested, driver)
    if (!isAsConfigured) {
      this.#logger.warn(
        { requested, driver },
        'the daemon of an earlier configuration is kept, since it has images: restart the snapshotter without any',
      )
      return
    }
    if (driver !== 'fuse' || requested === 'fuse') return
    this.#logger.warn(
      { requested, driver, passedOver },
      `no kernel path works here (${passedOver.join('; ')}): images are mounted by FUSE`,
    )
  }

  /**
   * Nobody held the descriptors that mounts hang on. On fanotify holes may have been read as zeros into the page cache: the
   * new daemon has marked the files again, and what is cached is dropped. On fscache the mounts are dead for good: they
   * are taken away, so that new containers get new ones; so are those of FUSE, already.
   */
  async #fence(daemon: WatchedDaemon, kernelLost: boolean): Promise<void> {
    this.#logger.error(
      { images: this.#images.size + this.#releasing.size, driver: daemon.driver },
      'nobody held the descriptors of mounted images: restart containers that read files at that time',
    )
    if (!kernelLost) return
    const all = [...this.#images.values(), ...this.#releasing.values()].filter(({ fuse }) => !fuse)
    const mounted = all.filter(({ spec }) => this.#images.has(spec.id))
    if (daemon.driver !== 'fanotify') {
      for (const record of mounted) await this.#unmount(record)
      return
    }
    const wrong = await this.#kernel.mend(all, this.#options.runDirectory)
    if (wrong.length === 0) return
    const value = [...(await this.wrongMappings()), ...wrong]
    await this.#options.store.write([{ type: 'put', key: WRONG_KEY, value }])
    // The kernel cannot let go of those pages: who comes now gets a mount without them.
    for (const record of mounted)
      if (wrong.some(({ mountpoint }) => mountpoint === record.spec.mountpoint)) await this.#unmount(record)
  }

  /** Files with wrong bytes in the memory of processes that still run. */
  async wrongMappings(): Promise<WrongMapping[]> {
    const known = (await this.#options.store.get<WrongMapping[]>(WRONG_KEY)) ?? []
    return known.filter(({ pid, startTicks }) => identify(pid)?.startTicks === startTicks)
  }

  /** What another boot left tells of processes, superblocks and mounts that are gone, under names that come again. */
  async #forgetOtherBoot(): Promise<void> {
    const { store } = this.#options
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    const known = (await store.listText(BOOT_KEY)).find(([key]) => key === BOOT_KEY)?.[1]
    if (known === JSON.stringify(boot)) return
    // A store of before it was written down may be of this boot.
    const stale = known === undefined ? [] : await store.listText('supervisor/')
    const keys = stale.map(([key]) => key).filter(key => key !== GENERATION_KEY)
    await store.write([
      ...keys.map(key => ({ type: 'del' as const, key })),
      { type: 'put', key: BOOT_KEY, value: boot },
    ])
    if (keys.length > 0) this.#logger.info({ records: keys.length }, 'records of an earlier boot are dropped')
  }

  /** What a new daemon must know before it serves: what is mounted, being mounted, or kept alive by containers. */
  async #knownImages(key: string): Promise<KnownImage[]> {
    const known: KnownImage[] = []
    for (const record of this.#recordsOf(key)) {
      try {
        known.push(await this.#pathOf(record).known(record))
        this.#unserved.delete(record.spec.imageRef)
      } catch (err) {
        this.#unserved.set(record.spec.imageRef, asFault(err).message)
        this.#logger.error(
          { err: asFault(err), imageRef: record.spec.imageRef },
          'an image has no backend any more',
        )
      }
    }
    return known
  }

  async #statusOf(id: string, daemon: WatchedDaemon): Promise<DaemonStatus> {
    const records = [...this.#images.values()].filter(record => daemonOf(record) === id)
    const { mountpoint = '', ...status } = daemon.status
    const { pid, apiSocket } = status
    const paths = records.flatMap(({ fuse }) => (fuse ? [fuse.path] : []))
    const readDataKb = pid === 0 ? 0 : await fetchReadDataKb(apiSocket, paths)
    return {
      ...status,
      ...{ id, mountpoint, readDataKb },
      references: records.length + (id === SHARED ? 1 : 0),
      memoryRssKb: readMemoryRssKb(pid),
      images: records.map(record => imageStatus(record, this.#describe(record))),
    }
  }

  #recordsOf(daemon: string): ImageRecord[] {
    const all = [...this.#images.values(), ...this.#releasing.values()]
    return all.filter(record => daemonOf(record) === daemon)
  }

  async #forgetDamaged(id: string): Promise<void> {
    if (this.#damaged.delete(mountedKey(id)))
      await this.#options.store.write([{ type: 'del', key: mountedKey(id) }])
  }

  async #save(record: ImageRecord): Promise<void> {
    await this.#options.store.write([{ type: 'put', key: mountedKey(record.spec.id), value: record }])
    countImages(this.list())
  }

  #pathOf({ fuse }: ImageRecord): ServingPath {
    return fuse ? this.#fuse : this.#kernel
  }

  #describe({ spec, fuse, takenOver }: ImageRecord): MountedImage {
    if (takenOver !== undefined) return { ...spec, driver: 'erofs', mountpoint: takenOver }
    if (!fuse) return { ...spec, driver: this.#daemons.shared.driver }
    const mountpoint = fuse.path === '/' ? fuse.mountpoint : fuse.mountpoint + fuse.path
    return { ...spec, driver: 'fuse', mountpoint }
  }

  /** One at a time, in order; a failure is its caller's alone. */
  #serially<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#queue.then(task, task)
    this.#queue = run.catch(() => undefined)
    return run
  }
}

function daemonOf({ fuse }: ImageRecord): string {
  return fuse?.daemon ?? SHARED
}
