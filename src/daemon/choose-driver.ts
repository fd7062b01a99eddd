import type { Driver } from '../cache/driver.js'
import { asFault, fault, isFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { FanotifyDriver } from '../fanotify/driver.js'
import { FscacheDriver } from '../fscache/driver.js'

/** `kernel` is upstream's `fscache`: fscache where the kernel has it, else fanotify. `auto` prefers fanotify. */
export const DRIVER_CHOICES = ['kernel', 'auto', 'fscache', 'fanotify'] as const
export type DriverChoice = (typeof DRIVER_CHOICES)[number]

export interface DriverSetup {
  choice: DriverChoice
  cacheDirectory: string
  fscacheTag?: string
  runDirectory: string
  /** Descriptors of a predecessor, by name; those that are used are taken out. They decide the driver. */
  kept: Map<string, number>
  logger: Logger
}

const ORDER: Record<DriverChoice, readonly ('fscache' | 'fanotify')[]> = {
  kernel: ['fscache', 'fanotify'],
  auto: ['fanotify', 'fscache'],
  fscache: ['fscache'],
  fanotify: ['fanotify'],
}

/**
 * The first driver that this kernel can run, each step logged with its reason.
 * @throws DRIVER_UNSUPPORTED when there is none, with every reason
 */
export function chooseDriver(setup: DriverSetup): Driver {
  const { kept, logger } = setup
  if (kept.has('fanotify:group')) return openDriver('fanotify', setup)
  if (kept.has('fscache:control')) return openDriver('fscache', setup)
  const reasons: string[] = []
  for (const name of ORDER[setup.choice]) {
    try {
      const driver = openDriver(name, setup)
      logger.info({ driver: name, passedOver: reasons }, 'driver chosen')
      return driver
    } catch (err) {
      if (!isFault(err, 'DRIVER_UNSUPPORTED')) throw err
      const reason = `${name}: ${asFault(err).message}`
      reasons.push(reason)
      logger.info({ driver: name, reason: asFault(err).message }, 'driver not possible here')
    }
  }
  throw fault(
    'DRIVER_UNSUPPORTED',
    `no kernel path works here (${reasons.join('; ')}): serving by FUSE comes with a later release; ` +
      'scripts/kernel-check.sh says what the kernel lacks',
  )
}

function openDriver(name: 'fscache' | 'fanotify', setup: DriverSetup): Driver {
  const { cacheDirectory, runDirectory, kept, logger } = setup
  if (name === 'fanotify') {
    const keptGroupFd = take(kept, 'fanotify:group')
    return new FanotifyDriver({
      cacheDirectory,
      runDirectory,
      logger,
      ...(keptGroupFd === undefined ? {} : { keptGroupFd }),
    })
  }
  const keptFd = take(kept, 'fscache:control')
  return new FscacheDriver({
    directory: cacheDirectory,
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
