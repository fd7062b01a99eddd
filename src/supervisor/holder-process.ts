/**
 * nydus-holder as a process: started, found again after a restart of ours, and what it says that it holds. The program is
 * native/holder.c, which describes socket and table.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { fault, hasErrno } from '../common/fault.js'
import { identify, type ProcessIdentity } from './daemon-process.js'

const VERSION = '1'
const READY_FD = 3
const START_TIMEOUT_MS = 30_000
/** Far above what it ever writes: 16,384 lines. */
const TABLE_MAX_BYTES = 8 << 20

export interface HolderTable {
  readonly process: ProcessIdentity
  /** Numbers in the holder's table of descriptors, by name. */
  readonly held: ReadonlyMap<string, number>
}

export function tablePath(socketPath: string): string {
  return `${socketPath}.table`
}

/** The table of a holder that runs. Undefined where there is none, or of another program or version. */
export function readHolderTable(socketPath: string): HolderTable | undefined {
  let text: string
  try {
    text = readFileSync(tablePath(socketPath), 'latin1')
  } catch (err) {
    if (hasErrno(err, 'ENOENT')) return undefined
    throw err
  }
  const table = parseHolderTable(text)
  return table && identify(table.process.pid)?.startTicks === table.process.startTicks ? table : undefined
}

/** @returns undefined for anything but a whole table of this version */
export function parseHolderTable(text: string): HolderTable | undefined {
  if (text.length > TABLE_MAX_BYTES || !text.endsWith('\n')) return undefined
  const [head = '', ...lines] = text.slice(0, -1).split('\n')
  const [, version, pid, startTicks] = /^nydus-holder (\d+) (\d+) (\d+)$/.exec(head) ?? []
  if (version !== VERSION || pid === undefined || startTicks === undefined) return undefined
  const held = new Map<string, number>()
  for (const line of lines) {
    const [, number, name] = /^(\d{1,9}) ([ -~]+)$/.exec(line) ?? []
    if (number === undefined || name === undefined) return undefined
    held.set(name, Number(number))
  }
  return { process: { pid: Number(pid), startTicks }, held }
}

/**
 * Starts a holder on the socket, whose file is replaced, and waits until it listens.
 * @throws HOLDER_UNAVAILABLE
 */
export async function startHolder(socketPath: string, logPath: string): Promise<ProcessIdentity> {
  const program = fileURLToPath(new URL('../../native/nydus-holder', import.meta.url))
  if (!existsSync(program)) throw fault('HOLDER_UNAVAILABLE', `${program} is missing: run npm run build`)
  const logFd = openSync(logPath, 'a', 0o600)
  // It needs nothing of the environment, least of all our service manager's socket.
  const child = spawn(program, [socketPath, String(READY_FD)], {
    detached: true,
    cwd: '/',
    env: {},
    stdio: ['ignore', logFd, logFd, 'pipe'],
  })
  closeSync(logFd)
  const ready = child.stdio[READY_FD] as NodeJS.ReadableStream & { destroy(): void }
  try {
    const signal = AbortSignal.timeout(START_TIMEOUT_MS)
    const failed = once(child, 'error', { signal }).then(([err]) => Promise.reject(err as Error))
    const ended = once(ready, 'end', { signal }).then(() => Promise.reject(new Error('it ended at once')))
    await Promise.race([once(ready, 'data', { signal }), failed, ended])
  } catch (err) {
    child.kill('SIGKILL')
    throw fault('HOLDER_UNAVAILABLE', `${program} does not start: see ${logPath}`, { cause: err })
  } finally {
    ready.destroy()
    child.unref()
  }
  const process = child.pid === undefined ? undefined : identify(child.pid)
  if (!process) throw fault('HOLDER_UNAVAILABLE', `${program} ended at once: see ${logPath}`)
  return process
}
