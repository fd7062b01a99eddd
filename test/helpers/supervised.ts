import { execFile } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Test } from 'tap'
import { DaemonClient } from '../../src/client/daemon-client.js'
import { silentLogger } from '../../src/common/log.js'
import { Store } from '../../src/common/store.js'
import type { BackendConfig } from '../../src/supervisor/image-mounts.js'
import type { FuseOptions } from '../../src/supervisor/daemons.js'
import { DEFAULT_FUSE_TEMPLATE } from '../../src/supervisor/fuse-config.js'
import { Supervisor, type SupervisorOptions } from '../../src/supervisor/supervisor.js'
import { FanotifyDriver } from '../../src/fanotify/driver.js'
import { tmpdir } from 'node:os'
import { erofsMissing } from './erofs-image.js'

/** Reason to skip what needs some kernel path; false where cachefiles on-demand or fanotify can serve. */
export const kernelPathMissing = (): string | false =>
  process.geteuid?.() === 0 && existsSync('/dev/cachefiles') ? false : fanotifyMissing

/** Reason to skip what needs fanotify pre-content events on file-backed EROFS; false where they work. */
export const fanotifyMissing = missing()

function missing(): string | false {
  if (erofsMissing !== false) return erofsMissing
  const directory = mkdtempSync(join(tmpdir(), 'fanotify-'))
  try {
    const driver = new FanotifyDriver({
      cacheDirectory: directory,
      runDirectory: directory,
      logger: silentLogger,
    })
    for (const { fd } of driver.descriptors()) closeSync(fd)
    return false
  } catch (err) {
    return `no fanotify pre-content events here: ${String(err)}`
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** How images are served by FUSE, for {@link supervise}. */
export function fuseOptions(directory: string, more: Partial<FuseOptions> = {}): FuseOptions {
  return {
    mountpoint: join(directory, 'fuse'),
    template: DEFAULT_FUSE_TEMPLATE,
    threads: 0,
    failoverPolicy: 'resend',
    recoverPolicy: 'failover',
    dedicated: false,
    socketDirectory: join(directory, 'socket'),
    ...more,
  }
}

/** Reason to skip what mounts FUSE; false where it can. */
export const fuseMissing =
  process.geteuid?.() !== 0 ? 'needs root' : existsSync('/dev/fuse') ? false : 'there is no /dev/fuse'

export interface Supervised {
  readonly directory: string
  readonly supervisor: Supervisor
  readonly logPath: string
  /** Process id of the daemon that serves now. */
  daemonPid(): Promise<number>
  client(): DaemonClient
  /** Ends this supervisor as a killed one would, and starts another on the same state. */
  restartSupervisor(): Promise<Supervisor>
}

/** A supervisor with its daemon, in `directory`; with the test everything of it ends and is unmounted. */
export async function supervise(
  t: Pick<Test, 'teardown'>,
  directory: string,
  backend: BackendConfig,
  overrides: Partial<SupervisorOptions> = {},
): Promise<Supervised> {
  const options = (store: Store): SupervisorOptions => ({
    root: directory,
    store,
    cacheDirectory: join(directory, 'cache'),
    logDirectory: join(directory, 'logs'),
    runDirectory: join(directory, 'run'),
    driver: 'kernel',
    nydusdPath: '',
    logLevel: 'debug',
    validate: true,
    backendConfig: () => Promise.resolve(backend),
    logger: silentLogger,
    ...overrides,
  })
  mkdirSync(directory, { recursive: true })
  let store = await Store.open(join(directory, 'state'))
  let supervisor = new Supervisor(options(store))
  const clients: DaemonClient[] = []
  const client = (): DaemonClient => {
    const made = new DaemonClient(join(directory, 'run', 'api.sock'))
    clients.push(made)
    return made
  }
  t.teardown(async () => {
    await supervisor.close({ cleanup: true })
    await store.close()
    for (const made of clients) await made.close()
  })
  await supervisor.start()
  return {
    directory,
    get supervisor() {
      return supervisor
    },
    logPath: join(directory, 'logs', 'nydusd.log'),
    client,
    daemonPid: async () => (await client().info()).pid,
    restartSupervisor: async () => {
      await supervisor.close({ cleanup: false })
      await store.close()
      store = await Store.open(join(directory, 'state'))
      supervisor = new Supervisor(options(store))
      await supervisor.start()
      return supervisor
    },
  }
}

/** Compares a mounted tree with the expectations of the fixtures; the last line says how many differ. */
export async function checkTree(fixtures: string, directory: string): Promise<string> {
  const script = join(fixtures, 'check_tree.py')
  const expected = join(fixtures, 'torture/expected.jsonl')
  try {
    const { stdout } = await promisify(execFile)('python3', [script, directory, expected], { maxBuffer: 1e7 })
    return stdout.trim().split('\n').at(-1) ?? ''
  } catch (err) {
    return (err as { stdout?: string }).stdout ?? String(err)
  }
}

/** The daemon's log, a parsed line each. */
export function readLog(path: string): Record<string, unknown>[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter(line => line.startsWith('{'))
    .map(line => JSON.parse(line) as Record<string, unknown>)
}
