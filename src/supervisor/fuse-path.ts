/**
 * Images that a daemon serves by FUSE: below the one mount of the shared daemon, or each as the whole mount of a daemon
 * of its own. One that is completely local is mounted by the kernel beside it, for the containers to come.
 *
 * Invariants: the session has a second holder before a container gets the mount; a complete image stays open in the
 * daemon as long as the kernel has it mounted, so that nobody takes its cache files; no credential is stored.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { MountCommand } from '../client/api.js'
import type { DaemonClient } from '../client/daemon-client.js'
import { asFault, isFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { readBlobIds } from './bootstrap-file.js'
import { isErofsMounted, mountPlanned, unmountAll } from './erofs-mount.js'
import { fuseConfig, type FuseTemplate } from './fuse-config.js'
import { detachFuse } from './fuse-mount.js'
import type { BackendConfigSource } from './image-mounts.js'
import type { FusePlace, ImageRecord } from './image-record.js'
import type { ServingPath } from './serving-path.js'
import type { KnownImage, WatchedDaemon } from './watched-daemon.js'

export interface FusePathOptions {
  readonly backendConfig: BackendConfigSource
  readonly fuseTemplate: FuseTemplate
  readonly takePrefetchFiles?: (imageRef: string) => readonly string[]
  readonly logger: Logger
}

/** The daemon of an image. */
export interface ServingDaemon {
  readonly daemon: Pick<WatchedDaemon, 'call' | 'keepDescriptors'>
  readonly cacheDirectory: string
  /** Ends the daemon that has no other image. */
  readonly end?: (discard: boolean) => Promise<void>
}

export class FusePath implements ServingPath {
  readonly #options: FusePathOptions
  readonly #daemonOf: (place: FusePlace) => ServingDaemon
  /** Images that the kernel did not take: asked once. */
  readonly #refused = new Set<string>()

  constructor(options: FusePathOptions, daemonOf: (place: FusePlace) => ServingDaemon) {
    this.#options = options
    this.#daemonOf = daemonOf
  }

  async mount(record: ImageRecord, remember: () => void): Promise<void> {
    const place = placeOf(record)
    const { daemon } = this.#daemonOf(place)
    // Its directory says that the image is mounted, wherever it is shown.
    mkdirSync(record.spec.mountpoint, { recursive: true, mode: 0o755 })
    const files = this.#options.takePrefetchFiles?.(record.spec.imageRef) ?? []
    const command = {
      ...(await this.#command(record)),
      ...(files.length > 0 && { prefetch_files: [...files] }),
    }
    await daemon.call(async client => {
      await ensureShown(client, place, command)
      remember()
      // A daemon of its own waits for its image.
      if ((await client.info()).state !== 'RUNNING') await client.start()
      await daemon.keepDescriptors()
    })
  }

  async known(record: ImageRecord): Promise<KnownImage> {
    const command = await this.#command(record)
    return {
      imageRef: record.spec.imageRef,
      restore: client => ensureShown(client, placeOf(record), command),
      serving: () => Promise.resolve(),
    }
  }

  async unmount(record: ImageRecord): Promise<void> {
    const place = placeOf(record)
    if (record.takenOver !== undefined) await unmountAll(record.takenOver)
    if (this.#daemonOf(place).end) await detachFuse(place.mountpoint)
  }

  async release(record: ImageRecord): Promise<void> {
    this.#refused.delete(record.fsid)
    const place = placeOf(record)
    const { daemon, end } = this.#daemonOf(place)
    if (end) return end(record.discard === true)
    try {
      await daemon.call(client => client.umount(place.path))
    } catch (err) {
      if (!isFault(err, 'INSTANCE_UNKNOWN')) throw err
    }
  }

  /** True for an image that the kernel may be able to take. */
  mayTakeOver({ fuse, takenOver, fsid }: ImageRecord): boolean {
    return fuse?.version === 6 && takenOver === undefined && !this.#refused.has(fsid)
  }

  /**
   * Mounts a completely local image by the kernel, for new containers; those of before stay on FUSE. No event is needed:
   * there is no hole that anybody could read.
   * @returns whether it did
   */
  async takeOver(record: ImageRecord): Promise<boolean> {
    if (!this.mayTakeOver(record) || !(await this.#isComplete(record))) return false
    const { spec } = record
    const place = placeOf(record)
    const { cacheDirectory } = this.#daemonOf(place)
    const target = place.mountpoint === spec.mountpoint ? `${spec.mountpoint}-erofs` : spec.mountpoint
    try {
      const devices = readBlobIds(spec.bootstrapPath).map(id => join(cacheDirectory, `${id}.blob.data`))
      const plan = { kind: 'file' as const, source: spec.bootstrapPath, devices }
      record.superblocks = await mountPlanned(plan, target, this.#options.logger)
    } catch (err) {
      this.#refused.add(record.fsid)
      if (isErofsMounted(target)) await unmountAll(target)
      this.#options.logger.info(
        { imageRef: spec.imageRef, reason: asFault(err).message },
        'a complete image stays on FUSE: the kernel does not mount it',
      )
      return false
    }
    record.takenOver = target
    this.#options.logger.info(
      { imageRef: spec.imageRef, mountpoint: target, driver: 'erofs' },
      'image is complete: new containers read it through the kernel alone',
    )
    return true
  }

  /** False also where the daemon does not say: the image is shown all the same, and it is asked again. */
  async #isComplete(record: ImageRecord): Promise<boolean> {
    const place = placeOf(record)
    try {
      const { daemon } = this.#daemonOf(place)
      return (await daemon.call(client => client.blobcache(place.path))).data_all_ready
    } catch (err) {
      this.#options.logger.warn(
        { imageRef: record.spec.imageRef, reason: asFault(err).message },
        'an image stays on FUSE for now: its daemon does not say whether it is complete',
      )
      return false
    }
  }

  async #command(record: ImageRecord): Promise<MountCommand> {
    const { spec } = record
    const { cacheDirectory } = this.#daemonOf(placeOf(record))
    const backend = await this.#options.backendConfig(spec)
    const input = { id: spec.id, backend, workDirectory: cacheDirectory }
    const config = JSON.stringify(fuseConfig(this.#options.fuseTemplate, input))
    return { fs_type: 'rafs', source: spec.bootstrapPath, config }
  }
}

/** @throws Error for an image that FUSE does not serve */
function placeOf({ fuse, spec }: ImageRecord): FusePlace {
  if (!fuse) throw new Error(`image ${spec.id} is not served by FUSE`)
  return fuse
}

async function ensureShown(client: DaemonClient, { path }: FusePlace, command: MountCommand): Promise<void> {
  try {
    await client.mount(path, command)
  } catch (err) {
    // A successor that came up meanwhile shows it already.
    if (!isFault(err, 'INSTANCE_EXISTS')) throw err
  }
}
