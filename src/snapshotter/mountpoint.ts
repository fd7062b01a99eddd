/** The directory that an image is mounted on, as an earlier run or somebody else left it. */
import { lstat } from 'node:fs/promises'
import { fault, hasErrno } from '../common/fault.js'
import { findFuseMount, findMount } from '../native/mount-table.js'
import { isErofsMounted, unmountAll } from '../supervisor/erofs-mount.js'
import { detachFuse } from '../supervisor/fuse-mount.js'

/** Takes away what is mounted there and belongs to no image that is known; who uses it goes on. */
export async function clearMountpoint(mountpoint: string): Promise<void> {
  for (const path of [mountpoint, `${mountpoint}-erofs`]) {
    if (isErofsMounted(path)) await unmountAll(path)
    if (findFuseMount(path)) await detachFuse(path)
  }
}

/**
 * Makes sure that an image can be mounted there.
 * @throws MOUNT_FAILED somebody else's file system or file is in the way
 */
export async function readyMountpoint(mountpoint: string): Promise<void> {
  await clearMountpoint(mountpoint)
  const entry = findMount(mountpoint)
  if (entry)
    throw fault('MOUNT_FAILED', `${mountpoint} has another file system (${entry.fsType}) on it: unmount that`)
  try {
    if (!(await lstat(mountpoint)).isDirectory())
      throw fault('MOUNT_FAILED', `${mountpoint}, where the image belongs, is no directory: remove it`)
  } catch (err) {
    if (!hasErrno(err, 'ENOENT')) throw err
  }
}
