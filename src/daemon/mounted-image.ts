import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createBackend } from '../backend/create.js'
import { ReadStatistics } from '../backend/read-statistics.js'
import type { CachedBlob } from '../cache/cached-blob.js'
import type { ChunkCache } from '../cache/chunk-cache.js'
import { fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { cacheDirectory, type MountConfig, parseDaemonConfig, requireMountConfig } from './config.js'
import type { Accounting } from '../fuse/server.js'
import type { MountRecord } from './fuse-state.js'
import { Image } from './image.js'
import type { ServiceContext } from './kernel-service.js'
import { Prefetch, type PrefetchStats } from './prefetch.js'
import { type Settings, settingsOf } from './runtime-settings.js'

/** An image that is shown in a FUSE mount, and all that it holds. */
export class MountedImage {
  #record: MountRecord
  readonly config: MountConfig
  readonly image: Image
  readonly cache: ChunkCache
  /** Reads of its backend. */
  readonly reads: ReadStatistics
  readonly #context: ServiceContext
  #prefetch: Prefetch | undefined
  /** What was put since it is mounted. */
  #put: Settings = {}

  constructor(
    record: MountRecord,
    config: MountConfig,
    image: Image,
    cache: ChunkCache,
    reads: ReadStatistics,
    context: ServiceContext,
  ) {
    this.#record = record
    this.config = config
    this.image = image
    this.cache = cache
    this.reads = reads
    this.#context = context
  }

  get record(): MountRecord {
    return this.#record
  }

  get blobs(): readonly CachedBlob[] {
    return this.image.blobs
  }

  get bootstrapFd(): number {
    return this.image.bootstrapFd
  }

  get mountedAt(): Date {
    return new Date(this.record.mountedMs)
  }

  /** Undefined where nothing is prefetched. */
  get prefetchStats(): PrefetchStats | undefined {
    return this.#prefetch?.stats
  }

  /** What is counted for each inode. */
  get accounting(): Accounting {
    const { iostats_files: files, access_pattern: pattern, latest_read_files: latest } = this.config.rafs
    return { files, pattern, latest }
  }

  /** What was put, and for the rest what its configuration says. Values are secret. */
  get settings(): Settings {
    return { ...settingsOf(this.config), ...this.#put }
  }

  /** Credentials are taken up at once by a backend that has any. @throws CREDENTIALS_INVALID */
  putSettings(settings: Settings): void {
    const { registry_auth: auth } = settings
    if (auth !== undefined) this.#setAuth(auth)
    this.#put = { ...this.#put, ...settings }
  }

  /** Also for a successor. */
  #setAuth(auth: string): void {
    if (!this.image.backend.setAuth) return
    this.image.backend.setAuth(auth)
    const { backend } = this.config
    const changed = {
      ...this.config,
      backend: { ...backend, [backend.type]: { ...backend[backend.type], auth } },
    }
    const command = { ...this.#record.command, config: JSON.stringify(changed) }
    this.#record = { ...this.#record, command }
  }

  /** Begins to prefetch what configuration and image say. */
  startPrefetch(): void {
    const {
      enable,
      threads,
      batch_size: batchBytes,
      bandwidth_limit: limit,
      ...rest
    } = this.config.rafs.prefetch
    if (!enable || this.blobs.every(blob => blob.complete)) return
    this.#prefetch = new Prefetch(
      { reader: this.image.openReader(), blobs: this.blobs },
      {
        files: this.record.command.prefetch_files ?? [],
        all: rest.prefetch_all || rest.stream_prefetch,
        threads,
        batchBytes: batchBytes === 0 ? 1024 * 1024 : batchBytes,
        bytesPerSecond: limit,
      },
      this.#context.logger.child({ path: this.record.path }),
    )
  }

  async stopPrefetch(): Promise<void> {
    await this.#prefetch?.stop()
  }

  /** Closes everything, and takes a cache of its own away. Not while a server shows it. */
  async close(): Promise<void> {
    await this.leave()
    await this.#context.caches.close(this.cache)
    const { privateCache } = this.record
    if (privateCache !== undefined) rmSync(privateCache, { recursive: true, force: true })
  }

  /** Ends what is under way and leaves files as they are, for a successor. */
  async leave(): Promise<void> {
    await this.stopPrefetch()
    await this.image.close()
  }
}

/**
 * Opens what a mount command names; asks no network.
 * @returns with a record that says where a private cache is
 * @throws CONFIG_INVALID, UNIMPLEMENTED, FILE_MISSING, RAFS_*, STORE_LOCKED, CACHE_*
 */
export async function openMountedImage(record: MountRecord, context: ServiceContext): Promise<MountedImage> {
  const { caches, logger, validate } = context
  const { command } = record
  const config = readMountConfig(command.config, logger)
  const privateCache = privateDirectory(record, config, logger)
  const directory = privateCache ?? cacheDirectory(config) ?? ''
  let cache: ChunkCache | undefined
  try {
    cache = await caches.open(directory)
    const backend = createBackend(config.backend.type, config.backend[config.backend.type] ?? {}, { logger })
    const bootstrapPath = command.source
    const statistics = new ReadStatistics()
    const image = await Image.open({ bootstrapPath, backend, cache, validate, logger, statistics })
    const kept = privateCache === undefined ? record : { ...record, privateCache }
    return new MountedImage(kept, config, image, cache, statistics, context)
  } catch (err) {
    if (cache) await caches.close(cache)
    if (privateCache !== undefined && privateCache !== record.privateCache)
      rmSync(privateCache, { recursive: true, force: true })
    throw err
  }
}

/** @throws CONFIG_INVALID, UNIMPLEMENTED */
function readMountConfig(text: string, logger: Logger): MountConfig {
  const config = requireMountConfig(parseDaemonConfig(text, message => logger.debug(message)))
  if (config.overlay)
    throw fault('UNIMPLEMENTED', 'overlay: writable mounts are not in this release: take "overlay" out')
  if (config.cache.filecache?.enable_encryption)
    throw fault(
      'UNIMPLEMENTED',
      'cache.filecache.enable_encryption: the cache keeps plain bytes: take it out',
    )
  if (config.cache.compressed)
    logger.warn('cache.compressed: the cache keeps uncompressed, verified bytes all the same')
  return config
}

/** Every byte goes through cache files: without a directory for them a mount gets one of its own. */
function privateDirectory(record: MountRecord, config: MountConfig, logger: Logger): string | undefined {
  const given = config.cache.type === 'dummycache' ? undefined : cacheDirectory(config)
  if (given !== undefined) return undefined
  const directory = record.privateCache ?? mkdtempSync(join(tmpdir(), 'nydusd-cache-'))
  logger.warn(
    { path: record.path, directory },
    'no cache is configured: the mount gets one of its own, which goes with it; better name a work_dir',
  )
  return directory
}
