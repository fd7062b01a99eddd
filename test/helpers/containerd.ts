import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { createInterface } from 'node:readline'

export interface CtrResult {
  code: number
  stdout: string
  stderr: string
}

const CRI = 'io.containerd.grpc.v1.cri'

/** A containerd of one's own: nothing of it is outside `directory`, and nothing of it outlives {@link stop}. */
export interface PrivateContainerd {
  /** Its gRPC socket. */
  address: string
  directory: string
  /** The process that all of it hangs on. */
  pid: number
  /** Runs `ctr` against it; does not throw for a bad exit code. */
  ctr(...args: string[]): Promise<CtrResult>
  /** Arguments that `ctr run` needs so that it leaves nothing elsewhere. */
  runArgs: string[]
  /** Kills it with its shims and containers, and unmounts what is left below `directory`. */
  stop(): Promise<void>
}

export interface ContainerdOptions {
  /** An existing directory on a real file system; it becomes a mount point while containerd runs. */
  directory: string
  /** Names and sockets of remote snapshotters. Their mounts must be below `directory` for containers to see them. */
  proxySnapshotters?: Record<string, string>
  /** Serves the CRI too, for images alone (there is no network plugin), with this snapshotter. */
  criSnapshotter?: string
  /** Another one is started when it dies, as a service manager does; its containers live on. */
  restarted?: boolean
}

/**
 * Starts containerd in a process and a mount namespace of its own, so that killing one process ends its shims and
 * containers and frees their mounts, however a test ends. Needs root.
 */
export async function startContainerd(options: ContainerdOptions): Promise<PrivateContainerd> {
  const directory = realpathSync(options.directory)
  const at = (name: string): string => path.join(directory, name)
  const address = at('containerd.sock')
  mkdirSync(at('fifo'), { recursive: true })
  writeFileSync(at('containerd.toml'), configuration(directory, options))
  // Shared, so that mounts that a snapshotter outside makes below it reach containerd's namespace.
  execFileSync('mount', ['--bind', directory, directory])
  execFileSync('mount', ['--make-shared', directory])

  const child = spawn('unshare', unshareArgs(at('containerd.toml'), options.restarted === true), {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  try {
    await booted(child)
  } catch (err) {
    child.kill('SIGKILL')
    unmountBelow(directory)
    throw err
  }
  const ctr = (...args: string[]): Promise<CtrResult> => runCtr(address, args)
  const pid = child.pid ?? 0
  // Without a cgroup path runc removes the container's cgroup whole; else a directory a namespace would stay.
  const runArgs = ['--fifo-dir', at('fifo'), '--runc-root', at('runc'), '--cgroup', '']
  const stop = async (): Promise<void> => {
    const gone = child.exitCode !== null || child.signalCode !== null ? undefined : once(child, 'exit')
    child.kill('SIGKILL')
    await gone
    unmountBelow(directory)
  }
  return { address, directory, pid, ctr, runArgs, stop }
}

/** Unmounts everything at or below `directory` in this mount namespace, the last mounted first. */
export function unmountBelow(directory: string): void {
  const below = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map(line =>
      (line.split(' ')[4] ?? '').replace(/\\(\d{3})/g, (_, octal: string) =>
        String.fromCharCode(parseInt(octal, 8)),
      ),
    )
    .filter(point => point === directory || point.startsWith(`${directory}/`))
  for (const point of below.reverse()) execFileSync('umount', ['--lazy', point])
}

function unshareArgs(config: string, restarted: boolean): string[] {
  const namespaces = ['--mount', '--propagation', 'slave', '--pid', '--fork', '--kill-child', '--mount-proc']
  // A /run of its own: shims put their sockets into /run/containerd whatever the configuration says.
  const start = restarted
    ? 'while :; do containerd --config "$1"; sleep 0.1; done'
    : 'exec containerd --config "$1"'
  const script = `mount -t tmpfs none /run && ${start}`
  return [...namespaces, 'sh', '-c', script, 'sh', config]
}

function configuration(
  directory: string,
  { proxySnapshotters = {}, criSnapshotter }: ContainerdOptions,
): string {
  const unwanted = ['devmapper', 'btrfs', 'zfs', 'aufs'].map(name => `io.containerd.snapshotter.v1.${name}`)
  if (criSnapshotter === undefined) unwanted.push(CRI)
  const lines = [
    'version = 2',
    `root = "${directory}/root"`,
    `state = "${directory}/state"`,
    `disabled_plugins = ${JSON.stringify(unwanted)}`,
    '[grpc]',
    `address = "${directory}/containerd.sock"`,
    '[plugins."io.containerd.internal.v1.opt"]',
    `path = "${directory}/opt"`,
  ]
  if (criSnapshotter !== undefined) {
    lines.push(
      `[plugins."${CRI}".containerd]`,
      `snapshotter = "${criSnapshotter}"`,
      'disable_snapshot_annotations = false',
      'discard_unpacked_layers = false',
      `[plugins."${CRI}".cni]`,
      `bin_dir = "${directory}/cni/bin"`,
      `conf_dir = "${directory}/cni/conf"`,
    )
  }
  lines.push('[proxy_plugins]')
  for (const [name, socket] of Object.entries(proxySnapshotters))
    lines.push(`[proxy_plugins.${name}]`, 'type = "snapshot"', `address = "${socket}"`)
  return `${lines.join('\n')}\n`
}

/** Waits for the line that containerd logs when it answers; what it logged instead becomes the error. */
function booted(child: ChildProcess): Promise<void> {
  const log: string[] = []
  return new Promise((resolve, reject) => {
    const lines = createInterface({ input: child.stderr! })
    lines.on('line', line => {
      if (log.push(line) > 50) log.shift()
      if (line.includes('containerd successfully booted')) resolve()
    })
    child.once('error', reject)
    child.once('exit', () => reject(new Error(`containerd did not start:\n${log.join('\n')}`)))
  })
}

function runCtr(address: string, args: string[]): Promise<CtrResult> {
  return new Promise(resolve => {
    execFile('ctr', ['--address', address, ...args], { maxBuffer: 16 << 20 }, (err, stdout, stderr) => {
      const code = err ? (typeof err.code === 'number' ? err.code : 1) : 0
      resolve({ code, stdout, stderr })
    })
  })
}
