#!/usr/bin/env node
import { mkdirSync, realpathSync } from 'node:fs'
import path from 'node:path'
import { asFault } from '../common/fault.js'
import { createLogger, type Logger } from '../common/log.js'
import { Store } from '../common/store.js'
import { readVersion } from '../common/version.js'
import { getRealTimeNs } from '../native/clock.js'
import { notifyServiceManager } from '../native/notify.js'
import { type NydusdTemplate, readNydusdTemplate } from '../snapshotter/backend-template.js'
import { type Settings, resolveSettings } from '../snapshotter/config.js'
import { parseFlags } from '../snapshotter/flags.js'
import { Images } from '../snapshotter/images.js'
import type { MetricsServer } from '../snapshotter/metrics-server.js'
import type { RuntimeMounts } from '../snapshotter/runtime-mounts.js'
import { PrefetchLists } from '../snapshotter/prefetch-lists.js'
import { systemActions } from '../snapshotter/system-actions.js'
import type { SystemActions } from '../snapshotter/system-routes.js'
import type { SystemServer } from '../snapshotter/system-server.js'
import { SnapshotsServer } from '../snapshotter/server.js'
import { Snapshotter } from '../snapshotter/snapshotter.js'
import type { ImageMounts } from '../supervisor/image-mounts.js'
import type { Supervisor } from '../supervisor/supervisor.js'
import { requireRoot, run } from './run.js'

const NAME = 'containerd-nydus-grpc'

run(NAME, async argv => {
  const flags = parseFlags(NAME, argv)
  if (flags.version) {
    process.stdout.write(versionText())
    return
  }
  requireRoot(NAME)
  const settings = resolveSettings(flags)
  // What is made here is the owner's alone, unless its mode is set.
  process.umask(0o077)
  mkdirSync(settings.root, { recursive: true, mode: 0o700 })
  await serve({ ...settings, root: realpathSync(settings.root) })
})

async function serve(settings: Settings): Promise<void> {
  const signalled = firstSignal()
  const log = openLog(settings)
  for (const warning of settings.warnings) log.warn(warning)
  // Read before anything is opened, so that a wrong one is told at once.
  const template = readNydusdTemplate(settings.nydusdConfigPath, settings.nydusdConfigGiven)
  const metricsServer = await serveMetrics(settings, log)
  const store = await Store.open(path.join(settings.root, 'state'))
  for (const sentence of store.damage) log.error(sentence)
  const prefetchLists = new PrefetchLists()
  let supervisor: Supervisor | undefined
  const images = openImages(settings, async () => {
    const { openSupervisor } = await import('./containerd-nydus-grpc/image-side.js')
    return (supervisor = openSupervisor(settings, template, { store, prefetchLists, log }))
  })
  const runtimeMounts = await openRuntimeMounts(settings, template, log)
  const snapshotter = await Snapshotter.open({
    ...settings,
    store,
    images,
    ...(runtimeMounts && { runtimeMounts }),
    now: getRealTimeNs,
    log: log.child({ mod: 'snapshotter' }),
  })
  const { cacheDirectory } = settings
  const actions = systemActions(() => supervisor, template.backend, prefetchLists, {
    examine: async () => {
      const { examine } = await import('../snapshotter/doctor.js')
      return await examine({ store, snapshotter, images, supervisor, cacheDirectory })
    },
    removeDamaged: id => snapshotter.remove(`damaged/${id}`),
  })
  const server = await SnapshotsServer.listen(
    settings.address,
    settings.owner,
    snapshotter,
    log.child({ mod: 'grpc' }),
  )
  const systemServer = await serveSystem(settings, actions, log).catch(async (err: unknown) => {
    await server.close()
    throw err
  })
  log.info({ address: settings.address, root: settings.root }, 'serving')
  notify('READY=1', log)
  // Plain layers are served already; what needs an image waits for this, and tries again if it fails.
  images
    .recover()
    .catch((err: unknown) => {
      log.error({ err: asFault(err) }, 'images cannot be served')
    })
    .then(() => snapshotter.cleanup())
    .catch((err: unknown) => {
      log.error({ err: asFault(err) }, 'what an earlier run left cannot be cleaned up')
    })

  log.info({ signal: await signalled }, 'stopping')
  notify('STOPPING=1', log)
  await server.close()
  await snapshotter.close()
  await images.close({ cleanup: settings.cleanupOnClose })
  await store.close()
  await systemServer?.close()
  await metricsServer?.close()
  log.info('stopped')
}

async function serveMetrics({ metricsAddress }: Settings, log: Logger): Promise<MetricsServer | undefined> {
  if (!metricsAddress) return undefined
  const { MetricsServer } = await import('../snapshotter/metrics-server.js')
  return await MetricsServer.listen(metricsAddress, log)
}

async function serveSystem(
  { system }: Settings,
  actions: SystemActions,
  log: Logger,
): Promise<SystemServer | undefined> {
  if (!system) return undefined
  const { SystemServer } = await import('../snapshotter/system-server.js')
  return await SystemServer.listen({ ...system, actions, logger: log.child({ mod: 'system' }) })
}

function openImages(settings: Settings, open: () => Promise<ImageMounts>): Images {
  if (settings.noImages === undefined) return new Images(open)
  const guestMounts = settings.overlayHelper !== undefined
  return new Images(undefined, { whyNone: settings.noImages, guestMounts })
}

/** Where containers get more than a plain overlay. */
async function openRuntimeMounts(
  settings: Settings,
  template: NydusdTemplate,
  log: Logger,
): Promise<RuntimeMounts | undefined> {
  if (settings.overlayHelper === undefined) return undefined
  const side = await import('./containerd-nydus-grpc/image-side.js')
  return side.openRuntimeMounts(settings.overlayHelper, settings, template, log)
}

/** The first signal asks for an orderly end; the second has its usual effect at once. */
async function firstSignal(): Promise<string> {
  return await new Promise(resolve => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        process.removeAllListeners('SIGTERM').removeAllListeners('SIGINT')
        resolve(signal)
      })
    }
  })
}

function openLog(settings: Settings): Logger {
  const { logLevel: level, logDirectory } = settings
  if (settings.logToStdout) return createLogger({ name: NAME, level, fd: 1 })
  mkdirSync(logDirectory, { recursive: true, mode: 0o700 })
  return createLogger({ name: NAME, level, file: path.join(logDirectory, 'nydus-snapshotter.log') })
}

/** systemd's Type=notify; without it nobody is told. */
function notify(message: string, log: Logger): void {
  const socket = process.env['NOTIFY_SOCKET']
  if (socket === undefined || socket === '') return
  try {
    notifyServiceManager(socket, message)
  } catch (err) {
    log.warn({ err }, 'service manager cannot be told')
  }
}

function versionText(): string {
  const { version, revision, buildTime } = readVersion()
  return [
    `Version: ${version}`,
    `Revision: ${revision}`,
    `Node version: ${process.version}`,
    `Build time: ${buildTime}`,
    '',
  ].join('\n')
}
