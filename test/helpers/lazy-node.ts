/**
 * A node as an operator sets it up, in one directory: containerd-nydus-grpc as a process with its daemon, a containerd
 * that knows it as `nydus`, and ctr-remote to pull with.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { DaemonClient } from '../../src/client/daemon-client.js'
import { LABELS } from '../../src/snapshotter/labels.js'
import type { Mount } from '../../src/snapshotter/snapshots.js'
import { type MountEntry, readMountTable } from '../../src/supervisor/mount-table.js'
import { type CtrResult, type PrivateContainerd, startContainerd } from './containerd.js'
import { SnapshotsClient } from './snapshots-client.js'

const program = (name: string): string => fileURLToPath(new URL(`../../src/bin/${name}.js`, import.meta.url))

export class LazyNode {
  readonly directory: string
  /** State directory of the snapshotter. */
  readonly root: string
  /** Lines of the snapshotter's log, over all its runs. */
  readonly log: Record<string, unknown>[] = []
  readonly snapshots: SnapshotsClient
  readonly #socket: string
  #containerd: PrivateContainerd | undefined
  #snapshotter: ChildProcess | undefined

  private constructor(directory: string) {
    this.directory = directory
    this.root = path.join(directory, 'nydus')
    this.#socket = path.join(directory, 'nydus.sock')
    this.snapshots = new SnapshotsClient(this.#socket)
  }

  /** Starts all of it in `directory`, which is on a real file system; with `t` everything of it ends. */
  static async start(t: Pick<Test, 'teardown'>, directory: string): Promise<LazyNode> {
    const node = new LazyNode(directory)
    t.teardown(() => node.#close())
    node.#containerd = await startContainerd({ directory, proxySnapshotters: { nydus: node.#socket } })
    await node.startSnapshotter()
    return node
  }

  get containerd(): PrivateContainerd {
    if (!this.#containerd) throw new Error('containerd does not run')
    return this.#containerd
  }

  get snapshotterPid(): number {
    return this.#snapshotter?.pid ?? 0
  }

  /** Files of image data that were fetched. */
  get cacheDirectory(): string {
    return path.join(this.root, 'cache')
  }

  /** Starts containerd-nydus-grpc and waits until it serves. */
  async startSnapshotter(): Promise<void> {
    const flags = ['--root', this.root, '--address', this.#socket, '--log-to-stdout', '--log-level', 'debug']
    const mode = ['--daemon-mode', 'shared', '--daemon-backend', 'fscache']
    // Without this process the snapshotter dies too, however this process ends.
    const own = ['--pdeathsig', 'KILL', process.execPath, program('containerd-nydus-grpc')]
    const child = spawn('setpriv', [...own, ...flags, ...mode], { stdio: ['ignore', 'pipe', 'pipe'] })
    this.#snapshotter = child
    const words: string[] = []
    createInterface({ input: child.stderr }).on('line', line => words.push(line))
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', line => {
        const entry = JSON.parse(line) as Record<string, unknown>
        this.log.push(entry)
        if (entry['msg'] === 'serving') resolve()
      })
      child.once('error', reject)
      child.once('exit', code =>
        reject(new Error(`containerd-nydus-grpc ended with ${code}: ${words.join('\n')}`)),
      )
    })
  }

  /** Ends the snapshotter and waits for its end; the daemon lives on. */
  async stopSnapshotter(signal: NodeJS.Signals): Promise<void> {
    const child = this.#snapshotter
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill(signal)
    await ended
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
    const layers = (await this.snapshots.list()).filter(
      ({ labels }) => LABELS.bootstrap in labels && labels[LABELS.imageRef] === reference,
    )
    const top = layers[0]?.name.split('/').at(-1) ?? ''
    return await this.ctr('snapshots', '--snapshotter', 'nydus', 'prepare', key, top)
  }

  /** What containerd would mount for a snapshot made with {@link prepare}. */
  async mounts(key: string): Promise<Mount[]> {
    const names = (await this.snapshots.list()).map(({ name }) => name)
    return await this.snapshots.mounts(names.find(name => name.endsWith(`/${key}`)) ?? key)
  }

  /** `ctr run --rm` with what the container wrote to its standard output. */
  async run(reference: string, id: string, command: string[], flags: string[] = []): Promise<CtrResult> {
    const args = ['run', '--rm', ...this.containerd.runArgs, '--snapshotter', 'nydus', ...flags]
    return await this.ctr(...args, reference, id, ...command)
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
    return [...told, ...readdirSync(path.join(this.root, 'snapshots'))]
  }

  /** EROFS mounts of this node. */
  images(): MountEntry[] {
    return readMountTable().filter(
      entry => entry.fsType === 'erofs' && entry.mountpoint.startsWith(`${this.directory}/`),
    )
  }

  /** Calls the daemon that serves now. */
  async withDaemon<T>(use: (client: DaemonClient) => Promise<T>): Promise<T> {
    const run = readdirSync(this.directory).find(name => name.startsWith('nydusd-'))
    if (run === undefined) throw new Error('no daemon was ever started')
    const client = new DaemonClient(path.join(this.directory, run, 'api.sock'))
    try {
      return await use(client)
    } finally {
      await client.close()
    }
  }

  async daemonPid(): Promise<number> {
    return await this.withDaemon(async client => (await client.info()).pid)
  }

  /** Waits until the daemon that serves is not `previous` any more. */
  async successorOf(previous: number): Promise<number> {
    for (let tries = 0; ; tries++) {
      const pid = await this.daemonPid().catch(() => previous)
      if (pid !== previous) return pid
      if (tries === 600) throw new Error('the daemon was not replaced within a minute')
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }

  async #close(): Promise<void> {
    this.snapshots.close()
    await this.stopSnapshotter('SIGKILL')
    await this.#containerd?.stop()
    for (const pid of processesOf(this.directory)) process.kill(pid, 'SIGKILL')
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

/** Daemons whose command line names the directory. */
function processesOf(directory: string): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter(
      pid => pid > 0 && pid !== process.pid && commandLine(pid).some(arg => arg.startsWith(`${directory}/`)),
    )
}

function commandLine(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  } catch {
    return []
  }
}
