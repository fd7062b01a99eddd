/**
 * A node as an operator sets it up, in one directory: containerd-nydus-grpc as a process with its daemon, a containerd
 * that knows it as `nydus`, and ctr-remote to pull with.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync, readlinkSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { DaemonClient } from '../../src/client/daemon-client.js'
import { LABELS } from '../../src/snapshotter/labels.js'
import type { Mount } from '../../src/snapshotter/snapshots.js'
import { type MountEntry, readMountTable } from '../../src/native/mount-table.js'
import {
  type ContainerdOptions,
  type CtrResult,
  type PrivateContainerd,
  startContainerd,
} from './containerd.js'
import { type SnapshotterProcess, startSnapshotter } from './snapshotter-process.js'

const program = (name: string): string => fileURLToPath(new URL(`../../src/bin/${name}.js`, import.meta.url))

/** Flags of the snapshotter, beside those that say where it is. */
const KERNEL_PATH = ['--daemon-mode', 'shared', '--daemon-backend', 'fscache']

export interface LazyNodeOptions extends Pick<ContainerdOptions, 'criSnapshotter' | 'restarted'> {
  /** How images are mounted; default: by the kernel path. */
  flags?: readonly string[]
}

export class LazyNode {
  readonly directory: string
  readonly #owner: Pick<Test, 'teardown'>
  readonly #flags: readonly string[]
  #execs = 0
  #containerd: PrivateContainerd | undefined
  #snapshotter: SnapshotterProcess | undefined

  private constructor(owner: Pick<Test, 'teardown'>, directory: string, flags: readonly string[]) {
    this.#owner = owner
    this.directory = directory
    this.#flags = flags
  }

  /** Starts all of it in `directory`, which is on a real file system; with `t` everything of it ends. */
  static async start(
    t: Pick<Test, 'teardown'>,
    directory: string,
    { flags = KERNEL_PATH, ...options }: LazyNodeOptions = {},
  ): Promise<LazyNode> {
    const node = new LazyNode(t, directory, flags)
    t.teardown(() => node.#close())
    // First, so that the snapshotter's mounts are made below a shared mount.
    node.#containerd = await startContainerd({
      directory,
      proxySnapshotters: { nydus: node.#socket },
      ...options,
    })
    await node.startSnapshotter()
    return node
  }

  get containerd(): PrivateContainerd {
    if (!this.#containerd) throw new Error('containerd does not run')
    return this.#containerd
  }

  /** The process of now, or the last one. */
  get snapshotter(): SnapshotterProcess {
    if (!this.#snapshotter) throw new Error('the snapshotter was not started')
    return this.#snapshotter
  }

  /** Starts containerd-nydus-grpc, again if it has ended, and waits until it serves. */
  async startSnapshotter(): Promise<void> {
    const flags = [...this.#flags, '--log-level', 'debug']
    this.#snapshotter = await startSnapshotter(this.#owner, path.join(this.directory, 'nydus'), flags)
  }

  /** `ctr-remote image rpull`, a real process. */
  async rpull(reference: string, ...flags: string[]): Promise<CtrResult> {
    const global = ['--address', this.containerd.address]
    return await execNode('ctr-remote', [...global, 'image', 'rpull', ...flags, reference])
  }

  async ctr(...args: string[]): Promise<CtrResult> {
    return await this.containerd.ctr(...args)
  }

  /** A writable snapshot on top of a pulled image, as for a container. */
  async prepare(key: string, reference: string): Promise<CtrResult> {
    const layers = (await this.snapshotter.client.list()).filter(
      ({ kind, labels }) => kind === 'committed' && labels[LABELS.imageRef] === reference,
    )
    const top = layers.find(({ name }) => !layers.some(({ parent }) => parent === name))
    return await this.ctr(
      'snapshots',
      '--snapshotter',
      'nydus',
      'prepare',
      key,
      top?.name.split('/').at(-1) ?? '',
    )
  }

  /** What containerd would mount for a snapshot made with {@link prepare}. */
  async mounts(key: string): Promise<Mount[]> {
    const names = (await this.snapshotter.client.list()).map(({ name }) => name)
    return await this.snapshotter.client.mounts(names.find(name => name.endsWith(`/${key}`)) ?? key)
  }

  /** `ctr run --rm`: what the container wrote is in the result. */
  async run(reference: string, id: string, command: string[], snapshotter = 'nydus'): Promise<CtrResult> {
    const args = ['run', '--rm', ...this.containerd.runArgs, '--snapshotter', snapshotter]
    return await this.ctr(...args, reference, id, ...command)
  }

  /** `ctr run --detach`. */
  async start(reference: string, id: string, command: string[]): Promise<CtrResult> {
    const args = ['run', '--detach', '--null-io', ...this.containerd.runArgs, '--snapshotter', 'nydus']
    return await this.ctr(...args, reference, id, ...command)
  }

  /** Runs a command in a container that runs. */
  async exec(id: string, command: string[]): Promise<CtrResult> {
    const own = ['--fifo-dir', path.join(this.directory, 'fifo'), '--exec-id', `exec-${++this.#execs}`]
    return await this.ctr('task', 'exec', ...own, id, ...command)
  }

  /** The state of containerd and snapshotter that an image makes: empty when none was ever pulled. */
  async leftovers(): Promise<string[]> {
    const listings = await Promise.all([
      this.ctr('content', 'ls', '--quiet'),
      this.ctr('content', 'active'),
      this.ctr('snapshots', '--snapshotter', 'nydus', 'ls'),
      this.ctr('images', 'ls', '--quiet'),
      this.ctr('leases', 'ls', '--quiet'),
    ])
    const told = listings
      .flatMap(({ stdout, stderr }) => (stdout + stderr).split('\n'))
      .filter(line => line !== '' && !/^(REF|KEY)\s/.test(line))
    return [...told, ...readdirSync(path.join(this.snapshotter.root, 'snapshots'))]
  }

  /** EROFS mounts of this node. */
  images(): MountEntry[] {
    return readMountTable().filter(
      entry => entry.fsType === 'erofs' && entry.mountpoint.startsWith(`${this.directory}/`),
    )
  }

  /** FUSE mounts of this node. */
  fuseMounts(): MountEntry[] {
    return readMountTable().filter(
      entry => entry.fsType === 'fuse' && entry.mountpoint.startsWith(`${this.directory}/`),
    )
  }

  /** The lowest layer of a snapshot made with {@link prepare}: where its image is mounted. */
  async imageOf(key: string): Promise<string> {
    const [mount] = await this.mounts(key)
    const lower = mount?.options.find(option => option.startsWith('lowerdir=')) ?? ''
    return lower.slice('lowerdir='.length)
  }

  /** Calls the daemon that serves now: the shared one, or the only one of its image. */
  async withDaemon<T>(use: (client: DaemonClient) => Promise<T>): Promise<T> {
    const client = new DaemonClient(this.apiSocket)
    try {
      return await use(client)
    } finally {
      await client.close()
    }
  }

  async daemonPid(): Promise<number> {
    return await this.withDaemon(async client => (await client.info()).pid)
  }

  /** What the kernel tells of the daemon's descriptors. */
  async fdinfo(): Promise<string> {
    const directory = `/proc/${await this.daemonPid()}/fdinfo`
    const read = (fd: string): string => {
      try {
        return readFileSync(path.join(directory, fd), 'utf8')
      } catch {
        return '' // closed meanwhile
      }
    }
    return readdirSync(directory).map(read).join('')
  }

  /** Waits until the daemon that serves is not `previous` any more. */
  async successorOf(previous: number): Promise<number> {
    let pid = previous
    await until('the daemon is replaced', async () => {
      pid = await this.daemonPid().catch(() => previous)
      return pid !== previous
    })
    return pid
  }

  /** Of the shared daemon, or of the only one of its image. */
  get apiSocket(): string {
    const own = path.join(this.snapshotter.root, 'socket')
    const [image] = existsSync(own) ? readdirSync(own) : []
    const directory = image === undefined ? this.runDirectory : path.join(own, image)
    // An upgraded daemon's is api1.sock, then api2.sock.
    const numbers = readdirSync(directory).map(name => Number(/^api(\d*)\.sock$/.exec(name)?.[1] ?? 0))
    return path.join(directory, `api${Math.max(0, ...numbers) || ''}.sock`)
  }

  /** `nydusctl upgrade`, a real process: the same program anew. */
  async upgrade(): Promise<CtrResult> {
    const system = path.join(path.dirname(this.#socket), 'system.sock')
    return await execNode('nydusctl', ['--system-sock', system, 'upgrade'])
  }

  /** Of the shared daemon. */
  get runDirectory(): string {
    const beside = path.dirname(this.#socket)
    const run = readdirSync(beside).find(name => name.startsWith('nydusd-'))
    if (run === undefined) throw new Error('no daemon was ever started')
    return path.join(beside, run)
  }

  get #socket(): string {
    return path.join(this.directory, 'nydus/run/grpc.sock')
  }

  async #close(): Promise<void> {
    // The snapshotter was ended before; the daemons now, while the paths of their logs can still be told.
    for (const pid of processesOf(this.directory)) process.kill(pid, 'SIGKILL')
    await this.#containerd?.stop()
  }
}

/** Runs one of our programs to its end. */
export function execNode(name: string, args: string[]): Promise<CtrResult> {
  return new Promise(resolve => {
    execFile(process.execPath, [program(name), ...args], { maxBuffer: 16 << 20 }, (err, stdout, stderr) => {
      const code = err ? (typeof err.code === 'number' ? err.code : 1) : 0
      resolve({ code, stdout, stderr })
    })
  })
}

/** Looks again and again, for a minute, at what gives no event. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadlineMs = Date.now() + 60_000; !(await holds()); await delay(50)) {
    if (Date.now() > deadlineMs) throw new Error(`not within a minute: ${what}`)
  }
}

/** Everything that is read from now on comes from where it lies, not from memory. */
export function dropPageCache(): void {
  writeFileSync('/proc/sys/vm/drop_caches', '3')
}

/** Makes a directory below another and names it. */
export function makeBelow(directory: string, name: string): string {
  const made = path.join(directory, name)
  mkdirSync(made)
  return made
}

/** By where they write their log: their command lines show their names only. */
export function processesOf(directory: string): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter(pid => pid > 0 && pid !== process.pid && outputOf(pid).startsWith(`${directory}/`))
}

function outputOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/fd/1`)
  } catch {
    return ''
  }
}
