import { readSync, writeSync } from 'node:fs'
import { fault } from '../../common/fault.js'

/**
 * A daemon that is to take over from one that still runs waits here, with everything loaded and checked and before it
 * takes anything, until that one has ended: two cannot have the cache or read the kernel's questions. Without
 * `NYDUS_STANDBY` it is none.
 *
 * The line that it waits for is read on the descriptor that says when its API answers; nothing else runs meanwhile.
 * @throws CANCELLED when whoever started it wants it no more
 */
export function standBy(readyFd: number | undefined): void {
  if (process.env['NYDUS_STANDBY'] !== '1' || readyFd === undefined) return
  writeSync(readyFd, 'STANDBY\n')
  const line = Buffer.alloc(3)
  if (readSync(readyFd, line) === 0)
    throw fault('CANCELLED', 'the upgrade was given up: the daemon before this one goes on')
}
