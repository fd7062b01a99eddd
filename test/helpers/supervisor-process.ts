import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { DaemonClient } from '../../src/client/daemon-client.js'
import { unmount } from '../../src/native/mount.js'
import { readMountTable } from '../../src/native/mount-table.js'
import { processEnded } from '../../src/supervisor/daemon-process.js'
import type { DescriptorPlace, ImageSpec, MountedImage } from '../../src/supervisor/image-mounts.js'
import { readHolderTable } from '../../src/supervisor/holder-process.js'
import type { WrongMapping } from '../../src/supervisor/mend.js'
import { processesOf } from './lazy-node.js'
import { readLog } from './supervised.js'
import type { ChildOptions } from './supervisor-child.js'

const CHILD = fileURLToPath(new URL('supervisor-child.js', import.meta.url))

export interface StartOptions {
  readonly env?: NodeJS.ProcessEnv
  /** From descriptor 3 on, as a service manager passes them. */
  readonly inherited?: readonly number[]
}

/** A supervisor with its daemons and its holder, each a process: any of them may be killed, and the first started again. */
export class SupervisorProcess {
  readonly #options: ChildOptions
  #child: ChildProcess | undefined
  #calls = 0

  constructor(t: Pick<Test, 'teardown'>, options: ChildOptions) {
    this.#options = options
    mkdirSync(join(options.directory, 'logs'), { recursive: true })
    t.teardown(() => this.#end())
  }

  get directory(): string {
    return this.#options.directory
  }

  /** Starts it, and waits until what an earlier one left is taken back. */
  async start({ env = {}, inherited = [] }: StartOptions = {}): Promise<void> {
    const logFd = openSync(join(this.directory, 'logs/supervisor.log'), 'a')
    const count = inherited.length
    // The pid of a process that does not exist yet: a shell becomes it.
    const listen = count > 0 ? `LISTEN_FDS=${count} LISTEN_PID=$$ ` : ''
    const line = `${listen}exec "$0" "$@"`
    const child = spawn('sh', ['-c', line, process.execPath, CHILD, JSON.stringify(this.#options)], {
      stdio: ['ignore', logFd, logFd, ...inherited, 'ipc'],
      env: { ...process.env, ...env },
    })
    closeSync(logFd)
    this.#child = child
    const ended = once(child, 'exit').then(() => Promise.reject(new Error(this.said().slice(-2000))))
    ended.catch(() => undefined)
    await Promise.race([once(child, 'message'), ended])
  }

  mount(spec: ImageSpec): Promise<MountedImage> {
    return this.#call('mount', spec)
  }

  list(): Promise<MountedImage[]> {
    return this.#call('list')
  }

  /** What the shared daemon has bound, or shows in its FUSE mount. */
  async imagesOfDaemon(): Promise<number> {
    const client = new DaemonClient(join(this.directory, 'run/api.sock'))
    try {
      const { driver, backend_collection: shown } = await client.info()
      if (driver === 'fuse') return Object.keys(shown ?? {}).length
      return (JSON.parse(await client.getText('/api/v2/blobs')) as unknown[]).length
    } finally {
      await client.close()
    }
  }

  descriptors(): Promise<DescriptorPlace[]> {
    return this.#call('descriptors')
  }

  wrongMappings(): Promise<WrongMapping[]> {
    return this.#call('wrongMappings')
  }

  close(cleanup: boolean): Promise<void> {
    return this.#call('close', cleanup)
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  /** Of the shared daemon, or of the image's own. */
  async daemonPid(id?: string): Promise<number> {
    const { directory } = this
    const socket =
      id === undefined ? join(directory, 'run/api.sock') : join(directory, 'socket', id, 'api.sock')
    const client = new DaemonClient(socket)
    try {
      return (await client.info()).pid
    } finally {
      await client.close()
    }
  }

  /** 0 where none runs. */
  holderPid(): number {
    return readHolderTable(join(this.directory, 'run/holder.sock'))?.process.pid ?? 0
  }

  /** How many nydusd of it run. */
  daemons(): number {
    const name = (pid: number): string => readFileSync(`/proc/${pid}/cmdline`, 'utf8')
    return processesOf(this.directory).filter(pid => /nydusd|singleton/.test(name(pid))).length
  }

  /** kill -9, all of them before any is seen dead. */
  async kill(...pids: number[]): Promise<void> {
    const ended = this.#child && pids.includes(this.pid) ? once(this.#child, 'exit') : undefined
    for (const pid of pids) process.kill(pid, 'SIGKILL')
    await ended
  }

  /** Whether a daemon answers at the shared socket, or the image's own. */
  async daemonAnswers(id?: string): Promise<boolean> {
    return this.daemonPid(id).then(
      () => true,
      () => false,
    )
  }

  log(): Record<string, unknown>[] {
    return readLog(join(this.directory, 'logs/supervisor.log'))
  }

  /** @param from the line to begin with */
  said(from = 0): string {
    return this.log()
      .slice(from)
      .map(line => JSON.stringify(line))
      .join('\n')
  }

  async #call<T>(name: string, value?: unknown): Promise<T> {
    const id = ++this.#calls
    const child = this.#child
    return new Promise<T>((resolve, reject) => {
      const hear = (message: { id: number; result?: T; failure?: string }): void => {
        if (message.id !== id) return
        child?.off('message', hear)
        if (message.failure === undefined) resolve(message.result as T)
        else reject(new Error(message.failure))
      }
      child?.on('message', hear)
      child?.once('exit', () => reject(new Error('the supervisor ended')))
      child?.send({ id, name, value })
    })
  }

  async #end(): Promise<void> {
    const { directory } = this
    // The supervisor first, so that it starts no other daemon.
    const own = [this.pid, ...processesOf(directory)].filter(pid => pid > 0 && existsSync(`/proc/${pid}`))
    for (const pid of own) process.kill(pid, 'SIGKILL')
    const mounts = readMountTable().filter(({ mountpoint }) => mountpoint.startsWith(`${directory}/`))
    for (const { mountpoint } of mounts.reverse())
      await unmount(mountpoint, { lazy: true, timeoutMs: 30_000 })
    await Promise.all(own.map(pid => processEnded(pid)))
  }
}
