import type { Driver, DriverName } from '../cache/driver.js'
import { asFault, fault, isFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { FanotifyDriver } from '../fanotify/driver.js'
import { FscacheDriver } from '../fscache/driver.js'

/** `kernel` is upstream's `fscache`: fscache where the kernel has it, else fanotify. `auto` prefers fanotify. */
export const KERNEL_CHOICES = ['kernel', 'auto', 'fscache', 'fanotify'] as const
/** `kernel` and `auto` fall back to `fuse` where there is a mountpoint for it. */
export const DRIVER_CHOICES = [...KERNEL_CHOICES, 'fuse'] as const
export type DriverChoice = (typeof DRIVER_CHOICES)[number]

export interface DriverSetup {
  choice: DriverChoice
  cacheDirectory: string
  fscacheTag?: string
  runDirectory: string
  /** Descriptors of a predecessor, by name; those that are used are taken out. They decide the driver. */
  kept: Map<string, number>
  /** Whether images can be served by FUSE instead. */
  hasFuse: boolean
  logger: Logger
}

const ORDER: Record<DriverChoice, readonly DriverName[]> = {
  kernel: ['fscache', 'fanotify'],
  auto: ['fanotify', 'fscache'],
  fscache: ['fscache'],
  fanotify: ['fanotify'],
  fuse: [],
}
const FALLS_BACK: readonly DriverChoice[] = ['kernel', 'auto', 'fuse']

export interface ChosenDriver {
  /** Undefined where FUSE is to serve alone. */
  readonly driver: Driver | undefined
  /** Why none of those before it was taken, a sentence each. */
  readonly passedOver: readonly string[]
}

/**
 * The first driver that this kernel can run, each step logged with its reason.
 * @throws DRIVER_UNSUPPORTED when there is none, with every reason
 */
export function chooseDriver(setup: DriverSetup): ChosenDriver {
  const { kept, logger } = setup
  if (kept.has('fanotify.group')) return { driver: openDriver('fanotify', setup), passedOver: [] }
  if (kept.has('fscache.control')) return { driver: openDriver('fscache', setup), passedOver: [] }
  const reasons: string[] = []
  for (const name of ORDER[setup.choice]) {
    try {
      const driver = openDriver(name, setup)
      logger.info({ driver: name, passedOver: reasons }, 'driver chosen')
      return { driver, passedOver: reasons }
    } catch (err) {
      if (!isFault(err, 'DRIVER_UNSUPPORTED')) throw err
      const reason = `${name}: ${asFault(err).message}`
      reasons.push(reason)
      logger.info({ driver: name, reason: asFault(err).message }, 'driver not possible here')
    }
  }
  if (setup.hasFuse && FALLS_BACK.includes(setup.choice)) {
    logger.warn({ driver: 'fuse', passedOver: reasons }, 'driver chosen: all images are served by FUSE')
    return { driver: undefined, passedOver: reasons }
  }
  throw fault(
    'DRIVER_UNSUPPORTED',
    `no kernel path works here (${reasons.join('; ')}): --mountpoint lets FUSE serve instead; ` +
      'scripts/kernel-check.sh says what the kernel lacks',
  )
}

function openDriver(name: DriverName, setup: DriverSetup): Driver {
  const { cacheDirectory, runDirectory, kept, logger } = setup
  if (name === 'fanotify') {
    const keptGroupFd = take(kept, 'fanotify.group')
    return new FanotifyDriver({
      cacheDirectory,
      runDirectory,
      logger,
      ...(keptGroupFd === undefined ? {} : { keptGroupFd }),
    })
  }
  const keptFd = take(kept, 'fscache.control')
  return new FscacheDriver({
    directory: cacheDirectory,
    runDirectory,
    logger,
    ...(setup.fscacheTag === undefined ? {} : { tag: setup.fscacheTag }),
    ...(keptFd === undefined ? {} : { keptFd }),
  })
}

function take(kept: Map<string, number>, name: string): number | undefined {
  const fd = kept.get(name)
  kept.delete(name)
  return fd
}
