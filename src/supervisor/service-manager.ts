/** The descriptor store of systemd, as sd_notify(3) and sd_listen_fds(3) tell of it. */
import { closeSync } from 'node:fs'
import { getCloseOnExec, setCloseOnExec } from '../native/descriptor.js'

const FIRST_FD = 3

export interface ServiceManager {
  readonly socketPath: string
  /**
   * How many it keeps for us (`FileDescriptorStoreMax=`); undefined for one before systemd 254, which does not tell: it
   * may keep none.
   */
  readonly limit: number | undefined
  /** What it gave back at the start of this process; the taker's from here on. */
  readonly inherited: ReadonlyMap<string, number>
}

/**
 * Reads what the manager told in the environment, once: the variables are gone afterwards and the descriptors are closed
 * on exec, so that no child takes them for its own.
 * @returns undefined where no manager listens, or it keeps nothing
 */
export function takeServiceManager(env: NodeJS.ProcessEnv): ServiceManager | undefined {
  const { NOTIFY_SOCKET: socketPath, FDSTORE: store, LISTEN_PID: pid, LISTEN_FDS: count } = env
  const names = env['LISTEN_FDNAMES']?.split(':') ?? []
  for (const name of ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'FDSTORE'])
    delete env[name]
  const inherited = new Map<string, number>()
  for (let index = 0; Number(pid) === process.pid && index < Number(count); index++) {
    const fd = FIRST_FD + index
    if (getCloseOnExec(fd) === undefined) break
    setCloseOnExec(fd, true)
    const name = names[index] ?? ''
    // It keeps several of one name: the last is the newest.
    const older = inherited.get(name)
    if (older !== undefined) closeSync(older)
    inherited.set(name, fd)
  }
  const limit = store === undefined ? undefined : Number(store)
  if (socketPath === undefined || socketPath === '' || limit === 0) {
    for (const fd of inherited.values()) closeSync(fd)
    return undefined
  }
  return { socketPath, limit, inherited }
}
