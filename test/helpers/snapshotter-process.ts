import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { SnapshotsClient } from './snapshots-client.js'

const BIN = path.resolve(import.meta.dirname, '../../src/bin/containerd-nydus-grpc.js')

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** Runs the command line to its end. */
export async function runSnapshotter(args: readonly string[], uid?: number): Promise<Ended> {
  const child = spawn(process.execPath, [BIN, ...args], { ...(uid === undefined ? {} : { uid }), cwd: '/' })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()))
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  return { code, signal, stdout, stderr }
}

export interface SnapshotterProcess {
  readonly root: string
  readonly socket: string
  readonly client: SnapshotsClient
  readonly child: ChildProcess
  /** Log lines so far, parsed. */
  readonly log: Record<string, unknown>[]
  /** Sends the signal and waits for the end. */
  end(signal: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

/** Starts the real process on state in `directory` and waits until it serves. It is killed with the test. */
export async function startSnapshotter(
  t: Pick<Test, 'teardown'>,
  directory: string,
  args: readonly string[] = ['--daemon-mode', 'none'],
): Promise<SnapshotterProcess> {
  const root = path.join(directory, 'root')
  const socket = path.join(directory, 'run/grpc.sock')
  const child = spawn(
    process.execPath,
    [BIN, '--root', root, '--address', socket, '--log-to-stdout', ...args],
    { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' },
  )
  const ended = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
  const client = new SnapshotsClient(socket)
  t.teardown(async () => {
    client.close()
    child.kill('SIGKILL')
    await ended
  })
  const log: Record<string, unknown>[] = []
  const lines = createInterface(child.stdout)
  const words: string[] = []
  createInterface(child.stderr).on('line', line => words.push(line))
  await new Promise<void>((resolve, reject) => {
    lines.on('line', line => {
      const entry = JSON.parse(line) as Record<string, unknown>
      log.push(entry)
      if (entry['msg'] === 'serving') resolve()
    })
    child.once('close', () => {
      reject(new Error(`the snapshotter ended: ${words.join('\n')}`))
    })
  })
  await client.connect()
  return {
    root,
    socket,
    client,
    child,
    log,
    async end(signal) {
      child.kill(signal)
      const [code, by] = await ended
      return { code, signal: by }
    },
  }
}
