/**
 * Images that the kernel reads by itself: the daemon binds them, EROFS is mounted, and the daemon answers events.
 *
 * Invariants: nothing is mounted before its descriptors have a second holder; no credential is stored.
 */
import { createHash } from 'node:crypto'
import type { BlobCacheEntry } from '../client/api.js'
import type { InstanceName } from '../client/daemon-client.js'
import { asFault, isFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { mountPlanned, proveInterception, unmountAll } from './erofs-mount.js'
import type { BackendConfigSource } from './image-mounts.js'
import type { ImageRecord } from './image-record.js'
import { type LostMount, mendMounts, type WrongMapping } from './mend.js'
import type { ServingPath } from './serving-path.js'
import type { KnownImage, WatchedDaemon } from './watched-daemon.js'

export interface KernelPathOptions {
  /** The snapshotter's root: the domain of its images is derived from it. */
  readonly root: string
  readonly cacheDirectory: string
  readonly backendConfig: BackendConfigSource
  readonly logger: Logger
}

export class KernelPath implements ServingPath {
  readonly #options: KernelPathOptions
  readonly #daemon: () => WatchedDaemon
  readonly #domainId: string

  constructor(options: KernelPathOptions, daemon: () => WatchedDaemon) {
    this.#options = options
    this.#daemon = daemon
    this.#domainId = `nydus-${createHash('sha256').update(options.root).digest('hex').slice(0, 16)}`
  }

  async mount(record: ImageRecord, remember: () => void): Promise<void> {
    const { mountpoint } = record.spec
    const daemon = this.#daemon()
    const name = this.#name(record)
    const entry = await this.#entryOf(record)
    await daemon.call(async client => {
      try {
        await client.bind(entry)
      } catch (err) {
        // A successor that came up meanwhile knows it already.
        if (!isFault(err, 'INSTANCE_EXISTS')) throw err
      }
      remember()
      await daemon.keepDescriptors()
    })
    const instance = await daemon.call(client => client.instance(name))
    record.superblocks = await mountPlanned(instance.mount, mountpoint, this.#options.logger)
    await proveInterception(() => daemon.call(client => client.instance(name)), mountpoint)
    await daemon.call(client => client.mounted(name))
  }

  async known(record: ImageRecord): Promise<KnownImage> {
    const entry = await this.#entryOf(record)
    return {
      imageRef: record.spec.imageRef,
      restore: client => client.bind(entry),
      serving: async client => {
        // While its mount is under way its canary is still to come.
        if (record.state === 'mounting') return
        try {
          await client.mounted(this.#name(record))
        } catch (err) {
          if (!isFault(err, 'INSTANCE_UNKNOWN')) throw err
        }
      },
    }
  }

  /**
   * Drops what was cached of mounts while nobody held their descriptors.
   * @returns what processes have mapped and is wrong
   */
  async mend(records: readonly ImageRecord[], scratchDirectory: string): Promise<WrongMapping[]> {
    const mounts: LostMount[] = []
    for (const record of records) {
      const { imageRef, mountpoint } = record.spec
      try {
        const { mount: plan } = await this.#daemon().call(client => client.instance(this.#name(record)))
        mounts.push({ imageRef, mountpoint, plan })
      } catch (err) {
        this.#options.logger.error(
          { err: asFault(err), imageRef },
          'the mount of an image that is not served cannot be mended: restart its containers',
        )
      }
    }
    return mendMounts(mounts, scratchDirectory, this.#options.logger)
  }

  async unmount({ spec }: ImageRecord): Promise<void> {
    await unmountAll(spec.mountpoint)
  }

  async release(record: ImageRecord): Promise<void> {
    const daemon = this.#daemon()
    try {
      await daemon.call(client => client.unbind(this.#name(record)))
    } catch (err) {
      if (!isFault(err, 'INSTANCE_UNKNOWN')) throw err
    }
    await daemon.keepDescriptors()
  }

  async #entryOf({ spec, fsid }: ImageRecord): Promise<BlobCacheEntry> {
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

  #name({ fsid: id }: ImageRecord): InstanceName {
    return { domainId: this.#domainId, id }
  }
}
