import { chown, lstat, mkdir, unlink } from 'node:fs/promises'
import { connect } from 'node:net'
import path from 'node:path'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { snapshotsService } from './service.js'
import type { Snapshots } from './snapshots.js'

/** How long calls under way may take to finish once no new ones are taken. */
const DRAIN_TIMEOUT_MS = 20_000

/** The gRPC server on its unix socket. */
export class SnapshotsServer {
  readonly #server = new Server()
  readonly #socket: string

  private constructor(socket: string) {
    this.#socket = socket
  }

  /**
   * Serves on `socket`, whose directory is made (0700) when it is missing. A socket that nobody listens on any more is
   * replaced.
   * @throws ADDRESS_IN_USE somebody listens; CONFIG_INVALID something else is at that path
   */
  static async listen(
    socket: string,
    owner: { uid: number; gid: number },
    snapshots: Snapshots,
    log: Logger,
  ): Promise<SnapshotsServer> {
    await mkdir(path.dirname(socket), { recursive: true, mode: 0o700 })
    await clearStale(socket)
    const self = new SnapshotsServer(socket)
    self.#server.addService(...snapshotsService(snapshots, log))
    try {
      await new Promise<void>((resolve, reject) => {
        self.#server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), err => {
          if (err) reject(err)
          else resolve()
        })
      })
    } catch (err) {
      throw fault('ADDRESS_IN_USE', `cannot listen on ${socket}: ${asFault(err).message}`, { cause: err })
    }
    if (owner.uid !== 0 || owner.gid !== 0) await chown(socket, owner.uid, owner.gid)
    return self
  }

  /** Takes no new call and waits for those under way, but not for ever. The socket file goes. */
  async close(): Promise<void> {
    const timer = setTimeout(() => {
      this.#server.forceShutdown()
    }, DRAIN_TIMEOUT_MS)
    await new Promise<void>(resolve => {
      this.#server.tryShutdown(() => {
        resolve()
      })
    })
    clearTimeout(timer)
    await unlink(this.#socket).catch((err: unknown) => {
      if (!hasErrno(err, 'ENOENT')) throw err
    })
  }
}

async function clearStale(socket: string): Promise<void> {
  try {
    if (!(await lstat(socket)).isSocket()) {
      throw fault('CONFIG_INVALID', `file ${socket} is not a socket: remove it, or give another --address`)
    }
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return
    throw err
  }
  if (await answers(socket))
    throw fault(
      'ADDRESS_IN_USE',
      `${socket} is served by another process: stop it, or give another --address`,
    )
  await unlink(socket)
}

async function answers(socket: string): Promise<boolean> {
  return await new Promise<boolean>(resolve => {
    const probe = connect(socket)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => {
      resolve(false)
    })
  })
}
