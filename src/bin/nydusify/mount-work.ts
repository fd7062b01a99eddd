/**
 * A mount and what belongs to it: a daemon of its own below the work directory, and nothing of either afterwards. What a
 * killed run left there is taken over and cleared by the next one.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, realpath, rm, rmdir, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { asFault, fault, hasErrno, isFault } from '../../common/fault.js'
import type { Logger } from '../../common/log.js'
import { Store } from '../../common/store.js'
import type { ImagePair } from '../../image/check/check-image.js'
import type { BackendConfig, BackendConfigSource } from '../../supervisor/image-mounts.js'
import { findMount } from '../../native/mount-table.js'
import { Supervisor } from '../../supervisor/supervisor.js'

export interface MountRequest {
  readonly image: NonNullable<ImagePair['nydus']>
  readonly imageRef: string
  /** As it is noted in the work directory. */
  readonly backend: BackendConfig
  /** As the daemon gets it, with credentials. */
  readonly backendConfig: BackendConfigSource
  /** Absolute. */
  readonly mountPath: string
  /** Absolute. */
  readonly workDirectory: string
  readonly nydusdPath: string
  readonly driver: string
  /** The mount ends when it is aborted. */
  readonly signal: AbortSignal
  readonly logger: Logger
}

const FILES = {
  manifest: 'nydus_manifest.json',
  config: 'nydus_config.json',
  bootstrap: 'nydus_bootstrap',
  fs: 'fs',
} as const
/** How long an unmounted image may be in use before that is told. */
const PATIENCE_MS = 1_000

/**
 * Mounts an image, says so on standard output, and unmounts it when the signal is aborted and nobody uses it any more.
 * @throws STORE_LOCKED, FILE_UNREADABLE, DRIVER_UNSUPPORTED and what the supervisor throws
 */
export async function serveMount(request: MountRequest): Promise<void> {
  const { workDirectory, mountPath } = request
  // What is made here is root's alone.
  process.umask(0o077)
  // Neither the handler of a signal nor the watch over a daemon keeps a process alive.
  const alive = setInterval(() => undefined, 1 << 30)
  try {
    const work = await makeDirectory(workDirectory)
    const store = await openStore(work)
    const runDirectory = `/run/nydusify-${createHash('sha256').update(work).digest('hex').slice(0, 16)}`
    const madeMountPath = !existsSync(mountPath)
    try {
      const mountpoint = await makeDirectory(mountPath)
      await writeFiles(work, runDirectory, request)
      await superviseMount({ ...request, mountPath: mountpoint, workDirectory: work }, store, runDirectory)
    } finally {
      await store.close()
      if (madeMountPath) await removeEmpty(mountPath)
      for (const name of Object.values(FILES))
        await rm(path.join(work, name), { recursive: true, force: true })
      await rm(runDirectory, { recursive: true, force: true })
      await removeEmpty(work)
    }
  } finally {
    clearInterval(alive)
  }
}

async function superviseMount(request: MountRequest, store: Store, runDirectory: string): Promise<void> {
  const { workDirectory, mountPath: mountpoint, imageRef, signal } = request
  const fs = path.join(workDirectory, FILES.fs)
  const supervisor = new Supervisor({
    root: workDirectory,
    store,
    cacheDirectory: path.join(fs, 'nydus_blobs'),
    logDirectory: fs,
    runDirectory,
    driver: request.driver,
    nydusdPath: request.nydusdPath,
    logLevel: 'info',
    validate: true,
    backendConfig: request.backendConfig,
    logger: request.logger,
  })
  try {
    await supervisor.start()
    for (const { id } of supervisor.list()) await supervisor.unmount(id)
    const there = findMount(mountpoint)
    if (there)
      throw fault(
        'MOUNT_FAILED',
        `${there.fsType} is mounted on ${mountpoint} already: name another --mount-path`,
      )
    signal.throwIfAborted()
    const bootstrapPath = path.join(workDirectory, FILES.bootstrap)
    const { driver } = await supervisor.mount({
      id: 'image',
      imageRef,
      bootstrapPath,
      mountpoint,
      labels: {},
    })
    process.stdout.write(`mounted ${imageRef} on ${mountpoint} (${driver}): Ctrl-C or SIGTERM unmounts it\n`)
    if (!signal.aborted) await once(signal, 'abort')
    await supervisor.unmount('image')
    await patiently(supervisor.released(), mountpoint)
  } finally {
    await supervisor.close({ cleanup: true })
  }
}

/** A daemon that ended under a reader would leave it zeros or errors to read. */
async function patiently(released: Promise<void>, mountpoint: string): Promise<void> {
  const timer = setTimeout(() => {
    process.stderr.write(`nydusify: something in ${mountpoint} is still in use: waiting until it is closed\n`)
  }, PATIENCE_MS)
  await released
  clearTimeout(timer)
}

async function writeFiles(
  work: string,
  runDirectory: string,
  { image, backend }: MountRequest,
): Promise<void> {
  const fs = path.join(work, FILES.fs)
  const socket = path.join(fs, 'nydus_api.sock')
  const write = async (name: string, content: Uint8Array | string): Promise<void> => {
    // A file that is there keeps its mode.
    await rm(path.join(work, name), { force: true })
    await writeFile(path.join(work, name), content, { mode: 0o600 })
  }
  try {
    await write(FILES.manifest, image.bytes)
    await write(FILES.config, JSON.stringify(image.config.document, null, 2))
    await write(FILES.bootstrap, image.bootstrap)
    await write(`${FILES.fs}/nydusd_config.json`, JSON.stringify({ device: { backend } }, null, 2))
    // The socket itself is where its path is short enough, and where nothing outlives the boot.
    await rm(socket, { force: true })
    await symlink(path.join(runDirectory, 'api.sock'), socket)
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `the work directory ${work} cannot be written`)
  }
}

async function openStore(work: string): Promise<Store> {
  try {
    return await Store.open(path.join(work, FILES.fs, 'state'))
  } catch (err) {
    if (!isFault(err, 'STORE_LOCKED')) throw err
    throw fault('STORE_LOCKED', `another mount uses ${work}: give this one a --work-dir of its own`, {
      cause: err,
    })
  }
}

/** @returns its real path */
async function makeDirectory(directory: string): Promise<string> {
  try {
    await mkdir(directory, { recursive: true })
    return await realpath(directory)
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `the directory ${directory} cannot be made`)
  }
}

async function removeEmpty(directory: string): Promise<void> {
  await rmdir(directory).catch((err: unknown) => {
    if (!['ENOTEMPTY', 'ENOENT', 'EBUSY', 'EEXIST'].some(name => hasErrno(err, name))) throw err
  })
}
