/**
 * The supervisor: one shared daemon, one EROFS mount an image, and a second holder of every kernel descriptor.
 *
 * Invariants: nothing is mounted before its descriptors have a second holder; mounts are made one at a time, so that
 * what is new in sysfs is theirs; an instance is released only when its superblock is gone; nothing that may wait for
 * the daemon runs on this thread; no credential is stored.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { BlobCacheEntry, InstanceInfo } from '../client/api.js'
import { DaemonClient } from '../client/daemon-client.js'
import { asFault, fault, hasErrno, isFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { Store } from '../common/store.js'
import { mountErofs, unmount } from '../native/mount.js'
import { probeRead } from '../native/file.js'
import { identify, type ProcessIdentity, processEnded, startDaemon } from './daemon-process.js'
import { DescriptorKeeper } from './descriptor-keeper.js'
import type { BackendConfigSource, ImageMounts, ImageSpec, MountedImage } from './image-mounts.js'
import { findMount } from './mount-table.js'
import { findNew, listBackingDevices, listSuperblocks, setReadAhead, superblockGone } from './superblock.js'

export interface SupervisorOptions {
  /** The snapshotter's root: a daemon's names are derived from it. */
  readonly root: string
  readonly store: Store
  readonly cacheDirectory: string
  readonly logDirectory: string
  /** On /run: what must not outlive the boot. */
  readonly runDirectory: string
  /** `kernel`, `auto`, `fscache` or `fanotify`, as nydusd's --driver. */
  readonly driver: string
  readonly nydusdPath: string
  readonly logLevel: string
  /** False switches chunk digests off; for tests of the checks themselves. */
  readonly validate: boolean
  readonly backendConfig: BackendConfigSource
  readonly logger: Logger
}

/** How long the kernel may take over a mount or an unmount that waits for the daemon. */
const MOUNT_TIMEOUT_MS = 60_000
const CANARY_TIMEOUT_MS = 15_000
/** How long a stop with clean-up waits for containers to let go of images. */
const RELEASE_TIMEOUT_MS = 5_000
/** A daemon that dies is restarted at once the first time, then after doubling pauses up to this. */
const RESTART_PAUSE_MAX_MS = 30_000
/** A daemon that lived this long starts its count of deaths afresh. */
const STABLE_MS = 60_000

interface DaemonRecord extends ProcessIdentity {
  apiSocket: string
}

interface InstanceRecord {
  spec: ImageSpec
  /** Fresh per mount: bootstrap digest and generation. */
  fsid: string
  /** Name below /sys/fs/erofs, once mounted. */
  superblock: string | null
  state: 'mounting' | 'mounted' | 'releasing'
}

export class Supervisor implements ImageMounts {
  readonly #options: SupervisorOptions
  readonly #logger: Logger
  readonly #domainId: string
  readonly #keeper = new DescriptorKeeper()
  readonly #instances = new Map<string, InstanceRecord>()
  readonly #closing = new AbortController()
  /** Unmounted images whose superblock is not gone yet. */
  readonly #releases = new Set<Promise<void>>()
  #client: DaemonClient | undefined
  #driver = ''
  #daemonPid = 0
  #ready: Promise<void> | undefined
  #queue: Promise<unknown> = Promise.resolve()

  constructor(options: SupervisorOptions) {
    this.#options = options
    this.#logger = options.logger
    this.#domainId = `nydus-${createHash('sha256').update(options.root).digest('hex').slice(0, 16)}`
  }

  start(): Promise<void> {
    // What failed (no daemon, no driver) may be mended meanwhile: the next call tries again.
    this.#ready ??= this.#recover().catch((err: unknown) => {
      this.#ready = undefined
      throw err
    })
    return this.#ready
  }

  async mount(spec: ImageSpec): Promise<MountedImage> {
    return this.#serially(async () => {
      await this.start()
      const known = this.#instances.get(spec.id)
      if (known?.state === 'mounted') return this.#describe(known)
      return this.#mountNew(spec)
    })
  }

  async unmount(id: string): Promise<void> {
    return this.#serially(async () => {
      const record = this.#instances.get(id)
      if (!record) return
      this.#instances.delete(id)
      await this.#unmountTree(record.spec.mountpoint)
      record.state = 'releasing'
      await this.#options.store.write([
        { type: 'del', key: instanceKey(id) },
        { type: 'put', key: releasingKey(record.fsid), value: record },
      ])
      this.#release(record)
    })
  }

  get(id: string): MountedImage | undefined {
    const record = this.#instances.get(id)
    return record?.state === 'mounted' ? this.#describe(record) : undefined
  }

  list(): MountedImage[] {
    return [...this.#instances.values()]
      .filter(({ state }) => state === 'mounted')
      .map(r => this.#describe(r))
  }

  /** The process is about to end: a successor of ours takes the descriptors again from the living daemon. */
  async close(options: { cleanup: boolean }): Promise<void> {
    if (options.cleanup) {
      for (const id of [...this.#instances.keys()]) await this.unmount(id)
      await Promise.race([Promise.all(this.#releases), delay(RELEASE_TIMEOUT_MS, undefined, { ref: false })])
    }
    this.#closing.abort()
    await this.#ready?.catch(() => undefined)
    if (options.cleanup) await this.#stopForGood()
    this.#keeper.release()
    await this.#client?.close()
  }

  /** Ends the daemon, unless containers still use an image: their reads would be answered with zeros or errors. */
  async #stopForGood(): Promise<void> {
    if (!this.#client || this.#daemonPid === 0) return
    if (this.#releases.size > 0) {
      this.#logger.warn(
        { images: this.#releases.size },
        'images are still in use: the daemon is left running',
      )
      return
    }
    try {
      await this.#client.exit()
    } catch (err) {
      this.#logger.warn({ err: asFault(err) }, 'the daemon does not end by itself: it is killed')
      process.kill(this.#daemonPid, 'SIGKILL')
    }
    await processEnded(this.#daemonPid)
    await this.#options.store.write([{ type: 'del', key: DAEMON_KEY }])
  }

  // Mounting

  async #mountNew(spec: ImageSpec): Promise<MountedImage> {
    const { store } = this.#options
    const generation = ((await store.get<number>(GENERATION_KEY)) ?? 0) + 1
    const record: InstanceRecord = {
      spec,
      fsid: freshFsid(spec.bootstrapPath, generation),
      superblock: null,
      state: 'mounting',
    }
    await store.write([
      { type: 'put', key: GENERATION_KEY, value: generation },
      { type: 'put', key: instanceKey(spec.id), value: record },
    ])
    // Known from here on: a daemon that dies now is replaced by one that can answer for this mount.
    this.#instances.set(spec.id, record)
    try {
      await this.#bind(record)
      await this.#mountBound(record)
    } catch (err) {
      this.#instances.delete(spec.id)
      await this.#undo(record)
      throw err
    }
    record.state = 'mounted'
    await store.write([{ type: 'put', key: instanceKey(spec.id), value: record }])
    this.#logger.info(
      { imageRef: spec.imageRef, mountpoint: spec.mountpoint, driver: this.#driver },
      'image mounted',
    )
    return this.#describe(record)
  }

  async #bind(record: InstanceRecord): Promise<void> {
    const { spec, fsid } = record
    const backend = await this.#options.backendConfig(spec)
    const entry: BlobCacheEntry = {
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
    await this.#daemon().bind(entry)
    await this.#keepDescriptors()
  }

  async #mountBound(record: InstanceRecord): Promise<void> {
    const client = this.#daemon()
    const { mountpoint } = record.spec
    mkdirSync(mountpoint, { recursive: true, mode: 0o755 })
    const instance = await client.instance(this.#name(record))
    const superblocks = listSuperblocks()
    const devices = listBackingDevices()
    await mountPlan(instance, mountpoint)
    record.superblock = findNew(superblocks, listSuperblocks()) ?? null
    refuseLoopDevice(mountpoint)
    const device = findNew(devices, listBackingDevices())
    if (device === undefined || !setReadAhead(device)) {
      this.#logger.warn({ mountpoint }, 'the read-ahead of the mount was left at the kernel default')
    }
    await this.#proveInterception(instance, mountpoint)
    await client.mounted(this.#name(record))
  }

  /**
   * The canary: a read of bytes that are not local, by this process, which the daemon denies. EIO is the proof that
   * reads of holes reach the daemon; anything else would be zeros in a container.
   */
  async #proveInterception(instance: InstanceInfo, mountpoint: string): Promise<void> {
    if (instance.mount.kind !== 'file' || !instance.canary) return
    const path = join(mountpoint, instance.canary.path)
    try {
      await probeRead(path, instance.canary.offset, 4096, { timeoutMs: CANARY_TIMEOUT_MS })
    } catch (err) {
      if (hasErrno(err, 'EIO')) return
      throw fault(
        'CANARY_FAILED',
        `reads of ${mountpoint} cannot be proved to be intercepted: ${asFault(err).message}`,
        {
          cause: err,
        },
      )
    }
    throw fault(
      'CANARY_FAILED',
      `a read of missing bytes in ${mountpoint} was not intercepted: the image is not mounted, since it would show zeros`,
    )
  }

  async #undo(record: InstanceRecord): Promise<void> {
    try {
      if (findMount(record.spec.mountpoint)?.fsType === 'erofs')
        await this.#unmountTree(record.spec.mountpoint)
      await this.#client?.unbind(this.#name(record))
      await this.#options.store.write([{ type: 'del', key: instanceKey(record.spec.id) }])
    } catch (err) {
      if (!isFault(err, 'INSTANCE_UNKNOWN'))
        this.#logger.warn({ err: asFault(err) }, 'a failed mount left something')
    }
  }

  async #unmountTree(mountpoint: string): Promise<void> {
    while (findMount(mountpoint)?.fsType === 'erofs') {
      try {
        await unmount(mountpoint, { timeoutMs: MOUNT_TIMEOUT_MS })
      } catch (err) {
        if (!hasErrno(err, 'EBUSY')) throw err
        // Somebody's working directory: detached now, gone when the last user is.
        await unmount(mountpoint, { lazy: true, timeoutMs: MOUNT_TIMEOUT_MS })
      }
    }
  }

  /** Lets the daemon go of an instance when its superblock is gone; goes on behind the caller's back. */
  #release(record: InstanceRecord): void {
    const released = async (): Promise<void> => {
      if (record.superblock !== null) await superblockGone(record.superblock, this.#closing.signal)
      await this.start()
      await this.#daemon()
        .unbind(this.#name(record))
        .catch((err: unknown) => {
          if (!isFault(err, 'INSTANCE_UNKNOWN')) throw err
        })
      await this.#keepDescriptors()
      await this.#options.store.write([{ type: 'del', key: releasingKey(record.fsid) }])
      this.#logger.info({ imageRef: record.spec.imageRef }, 'image released')
    }
    const release = released().then(
      () => void this.#releases.delete(release),
      (err: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#logger.error({ err: asFault(err) }, 'an image was not released')
      },
    )
    this.#releases.add(release)
  }

  // The daemon

  async #recover(): Promise<void> {
    const { store } = this.#options
    const instances = await store.list<InstanceRecord>(INSTANCE_PREFIX)
    const releasing = await store.list<InstanceRecord>(RELEASING_PREFIX)
    const alive = listSuperblocks()
    const living: InstanceRecord[] = []
    for (const [key, record] of instances) {
      const mounted = findMount(record.spec.mountpoint)?.fsType === 'erofs'
      if (mounted && record.state === 'mounted') {
        this.#instances.set(record.spec.id, record)
        living.push(record)
      } else {
        if (mounted) await this.#unmountTree(record.spec.mountpoint)
        await store.write([{ type: 'del', key }])
      }
    }
    const lingering: InstanceRecord[] = []
    for (const [key, record] of releasing) {
      if (record.superblock !== null && alive.has(record.superblock)) lingering.push(record)
      else await store.write([{ type: 'del', key }])
    }
    const adopted = await this.#adopt()
    if (!adopted) await this.#launch([...living, ...lingering], { takeOver: false })
    if (!adopted && living.length + lingering.length > 0) this.#fence(living.length + lingering.length)
    for (const record of lingering) this.#release(record)
  }

  /** Takes a living daemon of an earlier run of ours back. */
  async #adopt(): Promise<boolean> {
    const record = await this.#options.store.get<DaemonRecord>(DAEMON_KEY)
    if (!record) return false
    if (identify(record.pid)?.startTicks !== record.startTicks) return false
    const client = new DaemonClient(record.apiSocket)
    try {
      const info = await client.info()
      this.#client = client
      this.#driver = info.driver
      this.#daemonPid = record.pid
      await this.#keepDescriptors()
      if (info.state !== 'RUNNING') throw fault('DAEMON_STATE', `the daemon is ${info.state}`)
    } catch (err) {
      this.#logger.error(
        { err: asFault(err), pid: record.pid },
        'a living daemon cannot be adopted: it is replaced',
      )
      process.kill(record.pid, 'SIGKILL')
      await processEnded(record.pid)
      return false
    }
    this.#logger.info({ pid: record.pid, driver: this.#driver }, 'daemon adopted')
    this.#watch(record, Date.now())
    return true
  }

  /** Starts a daemon, gives it the instances that are mounted, and lets it serve. */
  async #launch(instances: readonly InstanceRecord[], options: { takeOver: boolean }): Promise<void> {
    const { runDirectory, logDirectory, store } = this.#options
    for (const directory of [runDirectory, logDirectory, this.#options.cacheDirectory]) {
      mkdirSync(directory, { recursive: true, mode: 0o700 })
    }
    const apiSocket = join(runDirectory, 'api.sock')
    const kept = options.takeOver ? this.#keeper.list() : []
    if (!options.takeOver) this.#keeper.release()
    const passive = instances.length > 0
    const startedMs = Date.now()
    const identity = await startDaemon({
      nydusdPath: this.#options.nydusdPath,
      logPath: join(logDirectory, 'nydusd.log'),
      kept,
      args: [
        'singleton',
        '--fscache',
        this.#options.cacheDirectory,
        '--driver',
        this.#driver === '' ? this.#options.driver : this.#driver,
        '--apisock',
        apiSocket,
        '--run-dir',
        runDirectory,
        '--log-level',
        this.#options.logLevel,
        ...(this.#options.validate ? [] : ['--no-validate']),
        ...(passive ? ['--upgrade'] : []),
      ],
    })
    await this.#client?.close()
    this.#client = new DaemonClient(apiSocket)
    this.#daemonPid = identity.pid
    await store.write([
      { type: 'put', key: DAEMON_KEY, value: { ...identity, apiSocket } satisfies DaemonRecord },
    ])
    for (const record of instances) await this.#bind(record)
    if (passive) await this.#client.start()
    for (const record of instances) {
      if (record.state !== 'mounting') await this.#client.mounted(this.#name(record))
    }
    const info = await this.#client.info()
    this.#driver = info.driver
    await this.#keepDescriptors()
    this.#logger.info({ pid: identity.pid, driver: info.driver, instances: instances.length }, 'daemon runs')
    this.#watch(identity, startedMs)
  }

  #watch(daemon: ProcessIdentity, startedMs: number, deaths = 0): void {
    processEnded(daemon.pid, this.#closing.signal).then(
      () => {
        if (!this.#closing.signal.aborted) this.#ready = this.#replace(daemon, startedMs, deaths)
      },
      (err: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#logger.error({ err: asFault(err) }, 'the daemon is not watched')
      },
    )
  }

  /** The daemon died: a successor takes over what is kept, until one stays up. */
  async #replace(daemon: ProcessIdentity, startedMs: number, deaths: number): Promise<void> {
    for (
      let count = Date.now() - startedMs > STABLE_MS ? 0 : deaths;
      !this.#closing.signal.aborted;
      count++
    ) {
      const pauseMs = count === 0 ? 0 : Math.min(250 * 2 ** count, RESTART_PAUSE_MAX_MS)
      this.#logger.error({ pid: daemon.pid, pauseMs }, 'the daemon died: its readers wait for a successor')
      await delay(pauseMs, undefined, { signal: this.#closing.signal }).catch(() => undefined)
      try {
        const lingering = await this.#options.store.list<InstanceRecord>(RELEASING_PREFIX)
        const instances = [...this.#instances.values(), ...lingering.map(([, record]) => record)]
        await this.#launch(instances, { takeOver: true })
        return
      } catch (err) {
        this.#logger.error({ err: asFault(err) }, 'a successor did not come up')
        await this.#stopDaemon()
      }
    }
  }

  /** Ends a successor that came up but could not be set to work. */
  async #stopDaemon(): Promise<void> {
    const record = await this.#options.store.get<DaemonRecord>(DAEMON_KEY)
    if (!record || identify(record.pid)?.startTicks !== record.startTicks) return
    process.kill(record.pid, 'SIGKILL')
    await processEnded(record.pid)
  }

  /**
   * Daemon and keeper died together: no group was held, and holes may have been read as zeros into the page cache. The
   * new daemon has marked the files again; what the page cache holds is dropped.
   */
  #fence(mounts: number): void {
    this.#logger.error(
      { mounts },
      'daemon and supervisor were both gone while images were mounted: cached pages are dropped; ' +
        'restart containers that read files at that time',
    )
    if (this.#driver === 'fanotify') writeFileSync('/proc/sys/vm/drop_caches', '1')
  }

  async #keepDescriptors(): Promise<void> {
    this.#keeper.keep(this.#daemonPid, await this.#daemon().descriptors())
  }

  #daemon(): DaemonClient {
    if (!this.#client) throw fault('DAEMON_UNAVAILABLE', 'there is no daemon: see the log of the snapshotter')
    return this.#client
  }

  #name(record: InstanceRecord): { domainId: string; id: string } {
    return { domainId: this.#domainId, id: record.fsid }
  }

  #describe(record: InstanceRecord): MountedImage {
    return { ...record.spec, driver: this.#driver }
  }

  /** One at a time, in order; a failure is its caller's alone. */
  #serially<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#queue.then(task, task)
    this.#queue = run.catch(() => undefined)
    return run
  }
}

const DAEMON_KEY = 'supervisor/daemon'
const GENERATION_KEY = 'supervisor/generation'
const INSTANCE_PREFIX = 'supervisor/instance/'
const RELEASING_PREFIX = 'supervisor/releasing/'
const instanceKey = (id: string): string => `${INSTANCE_PREFIX}${id}`
const releasingKey = (fsid: string): string => `${RELEASING_PREFIX}${fsid}`

function freshFsid(bootstrapPath: string, generation: number): string {
  return createHash('sha256')
    .update(readFileSync(bootstrapPath))
    .update(`generation ${generation}`)
    .digest('hex')
}

async function mountPlan(instance: InstanceInfo, target: string): Promise<void> {
  const { mount } = instance
  const request =
    mount.kind === 'file'
      ? { source: mount.source, devices: mount.devices, target, timeoutMs: MOUNT_TIMEOUT_MS }
      : {
          source: mount.fsid,
          fsid: mount.fsid,
          domainId: mount.domainId,
          target,
          timeoutMs: MOUNT_TIMEOUT_MS,
        }
  try {
    await mountErofs(request)
  } catch (err) {
    throw fault('MOUNT_FAILED', `the kernel does not mount the image: ${asFault(err).message}`, {
      cause: err,
    })
  }
}

/** Reads through a loop device raise no events: holes would be zeros. */
function refuseLoopDevice(mountpoint: string): void {
  const entry = findMount(mountpoint)
  if (entry?.fsType !== 'erofs')
    throw fault('MOUNT_FAILED', `${mountpoint} is not mounted after the mount succeeded`)
  if (entry.source.startsWith('/dev/')) {
    throw fault(
      'LOOP_DEVICE',
      `${mountpoint} is mounted from ${entry.source}: its reads cannot be intercepted`,
    )
  }
}
