/**
 * A FUSE server in a process of its own, commanded over IPC by fuse-serving.ts: a process that waits for its own mount would
 * wait for ever.
 */
import { openSync } from 'node:fs'
import { LocalFsBackend } from '../../src/backend/localfs.js'
import type { Backend, BlobReader } from '../../src/backend/reader.js'
import { ChunkCache } from '../../src/cache/chunk-cache.js'
import { asFault } from '../../src/common/fault.js'
import { createLogger } from '../../src/common/log.js'
import { Image } from '../../src/daemon/image.js'
import { openFuseServer } from '../../src/fuse/fuse-server.js'
import type { FuseServer, FuseServerOptions } from '../../src/fuse/server.js'
import { endProcess } from '../../src/native/process.js'
import { createGate } from './fake-blob.js'

/** An image as the commands name it. */
export interface ChildImage {
  readonly path: string
  readonly bootstrap: string
  /** Directory of its blobs. */
  readonly blobs: string
  readonly cache: string
  readonly accounting?: boolean
}

const logger = createLogger({ name: 'fuse-child', level: process.env['LOG'] ?? 'error' })
const caches = new Map<string, ChunkCache>()
const images = new Map<string, Image>()
let server: FuseServer | undefined
/** Reads of data wait for it. */
let gate: { opened: Promise<void>; open: () => void } | undefined
let failing = false
let reads = 0

const need = (): FuseServer => {
  if (!server) throw new Error('the server is not open')
  return server
}

/** What the parent may call. */
export const COMMANDS = {
  open: async (options: Omit<FuseServerOptions, 'logger'>) => {
    server = await openFuseServer({ ...options, logger })
    void server.ended.then(() => process.send?.({ event: 'ended' }))
    return server.mountpoint
  },
  show: async (image: ChildImage) => {
    const cache = caches.get(image.cache) ?? ChunkCache.open({ directory: image.cache, logger })
    caches.set(image.cache, cache)
    const { bootstrap: bootstrapPath, accounting = false } = image
    const backend = gated(new LocalFsBackend({ dir: image.blobs }))
    const opened = await Image.open({ bootstrapPath, backend, cache, validate: true, logger })
    await need().show({
      path: image.path,
      bootstrapFd: openSync(bootstrapPath, 'r'),
      blobs: opened.blobs,
      accounting: { files: accounting, pattern: accounting, latest: accounting },
    })
    images.set(image.path, opened)
  },
  hide: async (path: string) => {
    await need().hide(path)
    await images.get(path)?.close()
    images.delete(path)
  },
  start: () => need().start(),
  state: () => need().state(),
  descriptors: () => need().descriptors(),
  stats: (path: string) => need().stats(path),
  fileStats: (path: string) => need().fileStats(path),
  takeLatestReads: (path: string) => need().takeLatestReads(path),
  inflight: () => need().inflight(),
  unmount: () => need().unmount(),
  stop: () => need().stop(),
  hold: () => void (gate = createGate()),
  release: () => {
    gate?.open()
    gate = undefined
  },
  fail: (fail: boolean) => void (failing = fail),
  reads: () => reads,
  memory: () => process.memoryUsage.rss(),
  end: () => endProcess(0),
} as const
export type Commands = typeof COMMANDS

function gated(backend: Backend): Backend {
  return {
    type: backend.type,
    close: () => backend.close(),
    open: blobId => {
      const reader = backend.open(blobId)
      const gatedReader: BlobReader = {
        blobId,
        size: options => reader.size(options),
        read: async (offset, length, options) => {
          reads++
          process.send?.({ event: 'read' })
          await gate?.opened
          if (failing) throw new Error('the backend is down')
          return reader.read(offset, length, options)
        },
      }
      return gatedReader
    },
  }
}

if (process.send) {
  process.on('message', (message: { id: number; name: keyof Commands; args: unknown[] }) => {
    const { id, name, args } = message
    const call = COMMANDS[name] as (...values: unknown[]) => unknown
    Promise.resolve()
      .then(() => call(...args))
      .then(
        value => process.send?.({ id, value }),
        (err: unknown) => {
          const { code, message } = asFault(err)
          process.send?.({ id, failure: { code, message } })
        },
      )
  })
  process.on('disconnect', () => endProcess(0))
}
