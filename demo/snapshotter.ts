import { once } from 'node:events'
import { createConnection } from 'node:net'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { program, startProgram, tailOf } from './programs.js'

const START_TIMEOUT_MS = 30_000
const RETRY_MS = 50

/**
 * Starts containerd-nydus-grpc on `socket`, with its state below `directory`, and waits until it answers.
 * @returns what stops it; images and daemon live on, as they do when it is restarted
 */
export async function startSnapshotter(
  directory: string,
  socket: string,
  backend: string,
): Promise<() => Promise<void>> {
  const log = path.join(directory, 'snapshotter.log')
  const args = [
    ...[program('containerd-nydus-grpc'), '--root', path.join(directory, 'nydus'), '--address', socket],
    ...['--daemon-mode', 'shared', '--daemon-backend', backend, '--nydusd', program('nydusd')],
    '--log-to-stdout',
  ]
  const child = startProgram(process.execPath, args, log)
  const deadline = performance.now() + START_TIMEOUT_MS
  while (!(await answers(socket))) {
    if (child.exitCode !== null || performance.now() > deadline) {
      throw new Error(`containerd-nydus-grpc does not answer; the end of its log:\n${tailOf(log)}`)
    }
    await delay(RETRY_MS)
  }
  return async () => {
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    await ended
  }
}

/** By which way the image below that directory is mounted, as the kernel tells it. */
export function mountedDriver(directory: string): string {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .filter(line => line.split(' ')[1]?.startsWith(`${directory}/`))
  const erofs = mounts.find(line => line.split(' ')[2] === 'erofs')
  if (erofs !== undefined) return /[ ,]fsid=/.test(erofs) ? 'fscache' : 'fanotify'
  if (mounts.some(line => line.split(' ')[2] === 'fuse')) return 'fuse'
  throw new Error('neither EROFS nor FUSE is mounted: the image was not served lazily')
}

function answers(socket: string): Promise<boolean> {
  return new Promise(resolve => {
    const connection = createConnection(socket)
    connection.once('connect', () => {
      connection.destroy()
      resolve(true)
    })
    connection.once('error', () => resolve(false))
  })
}
