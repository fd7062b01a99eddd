/**
 * What serves lazily read images. It is loaded behind the service, for it is most of what the process loads, and plain
 * layers need none of it.
 */
import { createHash } from 'node:crypto'
import path from 'node:path'
import type { Logger } from '../../common/log.js'
import type { Store } from '../../common/store.js'
import { dockerConfigCredentials } from '../../oci/docker-config.js'
import { backendConfigSource } from '../../snapshotter/backend-config.js'
import type { NydusdTemplate } from '../../snapshotter/backend-template.js'
import type { PrefetchLists } from '../../snapshotter/prefetch-lists.js'
import type { Settings } from '../../snapshotter/config.js'
import { RuntimeMounts } from '../../snapshotter/runtime-mounts.js'
import type { FuseOptions } from '../../supervisor/daemons.js'
import type { BackendConfigSource } from '../../supervisor/image-mounts.js'
import { takeServiceManager } from '../../supervisor/service-manager.js'
import { isOwnRecord } from '../../snapshotter/directories.js'
import { Supervisor } from '../../supervisor/supervisor.js'

export interface SupervisorParts {
  readonly store: Store
  readonly prefetchLists: PrefetchLists
  readonly log: Logger
}

export function openSupervisor(
  settings: Settings,
  template: NydusdTemplate,
  { store, prefetchLists, log }: SupervisorParts,
): Supervisor {
  const manager = takeServiceManager(process.env)
  return new Supervisor({
    root: settings.root,
    store,
    cacheDirectory: settings.cacheDirectory,
    logDirectory: settings.logDirectory,
    runDirectory: runDirectory(settings),
    ...(manager && { manager }),
    driver: DRIVERS[settings.fsDriver] ?? settings.fsDriver,
    fuse: fuseOptions(settings, template),
    nydusdPath: settings.nydusdPath,
    logLevel: settings.logLevel,
    validate: true,
    backendConfig: backendConfig(template, log),
    isOwn: record => isOwnRecord(settings.root, record),
    takePrefetchFiles: imageRef => prefetchLists.take(imageRef),
    logger: log.child({ mod: 'supervisor' }),
  })
}

/** @param helper of the mounts that it makes */
export function openRuntimeMounts(
  helper: string,
  { cacheDirectory }: Settings,
  template: NydusdTemplate,
  log: Logger,
): RuntimeMounts {
  return new RuntimeMounts({
    helper,
    template: template.fuse,
    backendConfig: backendConfig(template, log),
    cacheDirectory,
  })
}

function backendConfig({ backend }: NydusdTemplate, log: Logger): BackendConfigSource {
  return backendConfigSource(backend, dockerConfigCredentials(), log)
}

function fuseOptions(
  { root, threads, failoverPolicy, recoverPolicy, dedicated }: Settings,
  { fuse: template }: NydusdTemplate,
): FuseOptions {
  const [mountpoint, socketDirectory] = [path.join(root, 'mnt'), path.join(root, 'socket')]
  return { mountpoint, template, threads, failoverPolicy, recoverPolicy, dedicated, socketDirectory }
}

/** Upstream's words: for the kernel path, by whichever driver the kernel has, and for FUSE. */
const DRIVERS: Readonly<Record<string, string>> = { fscache: 'kernel', fusedev: 'fuse' }

/** Beside the socket, for /run is emptied at boot; several roots may share the directory. */
function runDirectory({ address, root }: Settings): string {
  const id = createHash('sha256').update(root).digest('hex').slice(0, 8)
  return path.join(path.dirname(address), `nydusd-${id}`)
}
