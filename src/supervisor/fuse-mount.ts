/** The FUSE mount of a daemon, as the mount table tells of it: nothing here asks the daemon. */
import { hasErrno } from '../common/fault.js'
import { unmount } from '../native/mount.js'
import { findFuseMount } from '../native/mount-table.js'

const UNMOUNT_TIMEOUT_MS = 60_000

/** Detaches every FUSE mount at the path; whoever uses one goes on with it. */
export async function detachFuse(mountpoint: string): Promise<void> {
  while (findFuseMount(mountpoint)) {
    try {
      await unmount(mountpoint, { lazy: true, timeoutMs: UNMOUNT_TIMEOUT_MS })
    } catch (err) {
      // Its daemon was faster.
      if (!hasErrno(err, 'EINVAL')) throw err
    }
  }
}
