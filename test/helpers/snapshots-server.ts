import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { silentLogger } from '../../src/common/log.js'
import { Store } from '../../src/common/store.js'
import { getRealTimeNs } from '../../src/native/clock.js'
import { Images } from '../../src/snapshotter/images.js'
import type { RuntimeMounts } from '../../src/snapshotter/runtime-mounts.js'
import { SnapshotsServer } from '../../src/snapshotter/server.js'
import { Snapshotter } from '../../src/snapshotter/snapshotter.js'
import type { ImageMounts } from '../../src/supervisor/image-mounts.js'
import { SnapshotsClient } from './snapshots-client.js'

export interface ServerOptions {
  /** Closed by who made it. */
  images?: ImageMounts
  syncRemove?: boolean
  runtimeMounts?: RuntimeMounts
  /** Without images: a runtime mounts them in its guests. */
  guestMounts?: boolean
}

/** The whole service in this process, on a socket of its own, and a client of it. */
export interface RunningServer {
  readonly root: string
  readonly socket: string
  readonly client: SnapshotsClient
  close(): Promise<void>
}

/** Serves the state in `directory`, which may be that of a server closed before. */
export async function startSnapshotsServer(
  directory: string,
  options: ServerOptions = {},
): Promise<RunningServer> {
  const root = path.join(directory, 'root')
  const socket = path.join(directory, 'grpc.sock')
  mkdirSync(root, { recursive: true })
  const store = await Store.open(path.join(root, 'state'))
  const { runtimeMounts, guestMounts = false, images: mounts } = options
  const images = new Images(mounts && (() => Promise.resolve(mounts)), { guestMounts })
  const snapshotter = await Snapshotter.open({
    root,
    store,
    images,
    cacheDirectory: path.join(root, 'cache'),
    ...(runtimeMounts && { runtimeMounts }),
    syncRemove: options.syncRemove ?? false,
    alwaysVolatile: false,
    now: getRealTimeNs,
    log: silentLogger,
  })
  const server = await SnapshotsServer.listen(socket, { uid: 0, gid: 0 }, snapshotter, silentLogger)
  const client = new SnapshotsClient(socket)
  return {
    root,
    socket,
    client,
    async close() {
      client.close()
      await server.close()
      await snapshotter.close()
      await store.close()
    },
  }
}
