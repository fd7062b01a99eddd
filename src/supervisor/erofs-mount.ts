/** Mounting one image and proving that its reads are intercepted. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { InstanceInfo, MountPlan } from '../client/api.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { probeRead } from '../native/file.js'
import { mountErofs, unmount } from '../native/mount.js'
import { findMount } from '../native/mount-table.js'
import { listBackingDevices, listNew, listSuperblocks, setReadAhead } from './superblock.js'

/** How long the kernel may take over a mount or an unmount that waits for the daemon. */
const MOUNT_TIMEOUT_MS = 60_000
const CANARY_TIMEOUT_MS = 15_000

export function isErofsMounted(mountpoint: string): boolean {
  return findMount(mountpoint)?.fsType === 'erofs'
}

/**
 * Mounts an image as planned. One call at a time: what is new in sysfs is then its own.
 * @returns names below /sys/fs/erofs of which one is its superblock
 * @throws MOUNT_FAILED, LOOP_DEVICE
 */
export async function mountPlanned(plan: MountPlan, mountpoint: string, logger: Logger): Promise<string[]> {
  mkdirSync(mountpoint, { recursive: true, mode: 0o755 })
  const superblocks = listSuperblocks()
  const devices = listBackingDevices()
  const request =
    plan.kind === 'file'
      ? { source: plan.source, devices: plan.devices }
      : { source: plan.fsid, fsid: plan.fsid, domainId: plan.domainId }
  try {
    await mountErofs({ ...request, target: mountpoint, timeoutMs: MOUNT_TIMEOUT_MS })
  } catch (err) {
    throw fault('MOUNT_FAILED', `the kernel does not mount the image: ${asFault(err).message}`, {
      cause: err,
    })
  }
  refuseLoopDevice(mountpoint)
  const [device, ...others] = listNew(devices, listBackingDevices())
  if (device === undefined || others.length > 0 || !setReadAhead(device)) {
    logger.warn({ mountpoint }, 'the read-ahead of the mount was left at the kernel default')
  }
  return listNew(superblocks, listSuperblocks())
}

/**
 * The canary: a read of bytes that are not local, by this process, which the daemon denies. EIO is the proof that reads
 * of holes reach the daemon; anything else would be zeros in a container. An image without a hole needs none, and the
 * fscache path fails closed by itself.
 *
 * Somebody else may fill the hole just before the read: it is no proof of anything while the daemon names another one.
 * @param describe asks the daemon, which names a hole of this moment
 * @throws CANARY_FAILED
 */
export async function proveInterception(
  describe: () => Promise<InstanceInfo>,
  mountpoint: string,
): Promise<void> {
  for (let filled: string | undefined; ;) {
    const { mount, canary } = await describe()
    if (mount.kind !== 'file' || !canary) return
    const hole = `${canary.offset} ${canary.path}`
    if (hole === filled) {
      throw fault(
        'CANARY_FAILED',
        `a read of missing bytes in ${mountpoint} was not intercepted: the image is not mounted, since it would show zeros`,
      )
    }
    if (await isDenied(join(mountpoint, canary.path), canary.offset)) return
    filled = hole
  }
}

async function isDenied(path: string, offset: number): Promise<boolean> {
  try {
    await probeRead(path, offset, 4096, { timeoutMs: CANARY_TIMEOUT_MS })
    return false
  } catch (err) {
    if (hasErrno(err, 'EIO')) return true
    throw fault('CANARY_FAILED', `it cannot be proved that reads are intercepted: ${asFault(err).message}`, {
      cause: err,
      context: { path },
    })
  }
}

/** Unmounts every EROFS mount at the path; one that is somebody's working directory is detached. */
export async function unmountAll(mountpoint: string): Promise<void> {
  while (isErofsMounted(mountpoint)) {
    try {
      await unmount(mountpoint, { timeoutMs: MOUNT_TIMEOUT_MS })
    } catch (err) {
      if (!hasErrno(err, 'EBUSY')) throw err
      await unmount(mountpoint, { lazy: true, timeoutMs: MOUNT_TIMEOUT_MS })
    }
  }
}

/** Reads through a loop device raise no events: holes would be zeros. */
function refuseLoopDevice(mountpoint: string): void {
  const entry = findMount(mountpoint)
  if (entry?.fsType !== 'erofs') {
    throw fault('MOUNT_FAILED', `${mountpoint} is not mounted after the mount succeeded`)
  }
  if (entry.source.startsWith('/dev/')) {
    throw fault(
      'LOOP_DEVICE',
      `${mountpoint} is mounted from ${entry.source}: its reads cannot be intercepted`,
    )
  }
}
