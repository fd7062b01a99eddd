import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Test } from 'tap'
import type { DescriptorInfo, MountCommand } from '../../src/client/api.js'
import { DaemonClient } from '../../src/client/daemon-client.js'
import type { BuiltForm } from './built-forms.js'
import { programPath } from './command-line.js'
import { type FaultRegistryOptions, startFaultRegistry } from './registry.js'
import { readLog } from './supervised.js'

export interface FuseDaemonOptions {
  /** Beside `--mountpoint`, `--apisock` and `--log-level`. */
  readonly args?: readonly string[]
  /** Default `fuse`. */
  readonly service?: 'fuse' | 'singleton'
  /** Descriptors of a predecessor. */
  readonly kept?: readonly DescriptorInfo[]
  /** What runs node, with its arguments: an unsharing program. */
  readonly wrapper?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
}

/** A nydusd with a FUSE mount, as a process of its own. */
export interface FuseDaemon {
  readonly directory: string
  readonly mountpoint: string
  readonly socketPath: string
  readonly process: ChildProcess
  readonly pid: number
  readonly client: DaemonClient
  /** With its exit code, or the signal. */
  readonly ended: Promise<number | NodeJS.Signals | null>
  log(): Record<string, unknown>[]
  /** kill -9. */
  kill(): Promise<void>
}

/** Starts it in `directory` and waits until its API answers; it ends with the test. */
export async function startFuseDaemon(
  t: Pick<Test, 'teardown'>,
  directory: string,
  options: FuseDaemonOptions = {},
): Promise<FuseDaemon> {
  const mountpoint = join(directory, 'mnt')
  const socketPath = join(directory, 'run/api.sock')
  const logPath = join(directory, 'nydusd.log')
  mkdirSync(join(directory, 'run'), { recursive: true })
  // Not asked for what is there: it may be the mount of a dead daemon.
  if (!readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${mountpoint} `))
    mkdirSync(mountpoint, { recursive: true })
  const { service = 'fuse', args = [], kept = [], wrapper = [] } = options
  const line = [...wrapper, process.execPath, programPath('nydusd'), service, ...args]
  line.push('--mountpoint', mountpoint, '--apisock', socketPath, '--log-level', 'debug')
  const [file = '', ...rest] = line
  const logFd = openSync(logPath, 'a')
  const names = Object.fromEntries(kept.map(({ name }, index) => [name, 4 + index]))
  const child = spawn(file, rest, {
    stdio: ['ignore', logFd, logFd, 'pipe', ...kept.map(({ fd }) => fd)],
    env: {
      ...process.env,
      NYDUS_READY_FD: '3',
      NYDUS_KEPT_DESCRIPTORS: JSON.stringify(names),
      ...options.env,
    },
  })
  closeSync(logFd)
  const ended = once(child, 'exit').then(
    ([code, signal]) => (code ?? signal) as number | NodeJS.Signals | null,
  )
  const client = new DaemonClient(socketPath)
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL')
    await ended
  }
  t.teardown(async () => {
    await kill()
    await client.close()
  })
  const ready = child.stdio[3] as NodeJS.ReadableStream
  const came = await Promise.race([once(ready, 'data').then(() => true), ended])
  if (came !== true)
    throw new Error(`nydusd ended with ${came}: ${readFileSync(logPath, 'utf8').slice(-2000)}`)
  const { pid = 0 } = child
  return {
    directory,
    mountpoint,
    socketPath,
    process: child,
    pid,
    client,
    ended,
    log: () => readLog(logPath),
    kill,
  }
}

/** A form written out: `bootstrap` is its path. */
export interface WrittenForm {
  readonly bootstrap: string
  readonly blobs: string
}

export function writeForm(directory: string, form: BuiltForm): WrittenForm {
  const blobs = join(directory, 'blobs')
  mkdirSync(blobs, { recursive: true })
  const bootstrap = join(directory, 'image.boot')
  writeFileSync(bootstrap, form.bootstrap)
  for (const [id, bytes] of form.blobs) writeFileSync(join(blobs, id), bytes)
  return { bootstrap, blobs }
}

/** A form whose blobs are on a registry of ours, and the backend that reads them there. */
export async function publishForm(
  t: Pick<Test, 'teardown'>,
  form: BuiltForm,
  more: object = {},
  options: FaultRegistryOptions = {},
) {
  const registry = await startFaultRegistry(t, options)
  for (const [id, bytes] of form.blobs) registry.addBlob(bytes, { as: `sha256:${id}` })
  const how = { scheme: 'http', host: registry.host, repo: 'app', timeout: 5, ...more }
  return { registry, backend: { type: 'registry', registry: how } }
}

/** A mount with blobs in a directory, unless another backend is given. */
export function mountCommand(
  source: string,
  options: { blobs?: string; cache?: string; backend?: object; rafs?: object; prefetch?: string[] },
): MountCommand {
  const { blobs, cache, rafs = {}, prefetch } = options
  const config = {
    version: 2,
    backend: options.backend ?? { type: 'localfs', localfs: { dir: blobs } },
    cache: cache === undefined ? {} : { type: 'blobcache', filecache: { work_dir: cache } },
    rafs: { mode: 'direct', ...rafs },
  }
  return { source, fs_type: 'rafs', config: JSON.stringify(config), prefetch_files: prefetch ?? null }
}

/** sha256 of every regular file below a directory, by path; read by another process. */
export async function sumTree(directory: string): Promise<Map<string, string>> {
  // Not as the working directory of a child: we would wait until it has entered it.
  const command = 'cd "$1" && find . -type f -print0 | xargs -0 -r sha256sum -z'
  const { stdout } = await promisify(execFile)('sh', ['-c', command, 'sh', directory], { maxBuffer: 1e8 })
  const lines = stdout.split('\0').filter(line => line !== '')
  return new Map(lines.map(line => [line.slice(68), line.slice(0, 64)]))
}

/** Runs a program; its standard output, or what it failed with. */
export async function runReader(file: string, ...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(file, args, { maxBuffer: 1e8 })
  return stdout
}
