import type { ChunkCache } from '../cache/chunk-cache.js'
import type { Driver } from '../cache/driver.js'
import type { Logger } from '../common/log.js'
import type { Caches } from './caches.js'
import { chooseDriver, type DriverChoice } from './choose-driver.js'
import { Instances } from './instances.js'

export interface KernelServiceOptions {
  /** The one cache of all images, whose files are the EROFS devices. */
  readonly cacheDirectory: string
  readonly fscacheTag?: string
  readonly driver: DriverChoice
  readonly runDirectory: string
}

/** What the daemon gives to each of its services. */
export interface ServiceContext {
  readonly caches: Caches
  /** Descriptors of a predecessor, by name; those that are used are taken out. */
  readonly kept: Map<string, number>
  readonly validate: boolean
  readonly logger: Logger
}

/** The images of the node that the kernel serves by itself: one driver, one cache. */
export class KernelService {
  readonly cache: ChunkCache
  readonly driver: Driver
  readonly instances: Instances

  private constructor(cache: ChunkCache, driver: Driver, context: ServiceContext) {
    this.cache = cache
    this.driver = driver
    this.instances = new Instances({ ...context, cache, driver })
  }

  /**
   * @param hasFuse whether FUSE can serve instead
   * @returns no service where FUSE is to serve alone, and why none of the drivers before was taken
   * @throws DRIVER_UNSUPPORTED, STORE_LOCKED, CACHE_IO
   */
  static async open(
    options: KernelServiceOptions,
    context: ServiceContext,
    hasFuse: boolean,
  ): Promise<{ kernel?: KernelService; passedOver: readonly string[] }> {
    const { caches, kept, logger } = context
    // First of all: a driver must not touch what another daemon uses.
    const cache = await caches.open(options.cacheDirectory)
    const { driver: choice, ...rest } = options
    const { driver, passedOver } = chooseDriver({ ...rest, choice, kept, hasFuse, logger })
    if (driver) return { kernel: new KernelService(cache, driver, context), passedOver }
    await caches.close(cache)
    return { passedOver }
  }
}
