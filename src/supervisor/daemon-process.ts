import { spawn } from 'node:child_process'
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { DescriptorInfo } from '../client/api.js'
import { fault, hasErrno } from '../common/fault.js'
import { openPidfd, waitForExit } from '../native/process.js'

/** Environment variable that tells a daemon which inherited descriptor is which: a JSON object of name to number. */
export const KEPT_DESCRIPTORS_ENV = 'NYDUS_KEPT_DESCRIPTORS'
/** The daemon writes one line here when its API answers; its end without a line is a failed start. */
export const READY_FD = 3
const FIRST_KEPT_FD = 4
/**
 * One thread of V8's own instead of four: what there is to collect is few and large buffers, and the threads spent more
 * processor time on finding work than on work (0.58 s instead of 0.85 s over a cold read of 512 MiB); 5 MiB less memory.
 */
const NODE_ARGS = ['--v8-pool-size=1']
/** Node alone needs seconds on an emulated processor. */
const START_TIMEOUT_MS = 120_000
/** What our daemon says last where the kernel cannot serve; earlier lines of the log are of earlier daemons. */
const UNSUPPORTED = /(?:^|\n)nydusd: (.*) \(DRIVER_UNSUPPORTED\)\n$/

export interface DaemonCommand {
  /** `nydusd` to run; ours beside this file when empty. */
  readonly nydusdPath: string
  readonly args: readonly string[]
  /** Its standard output and error, appended. */
  readonly logPath: string
  readonly kept: readonly DescriptorInfo[]
}

/** A process that can be recognised after a restart of ours: pids are reused, start times are not. */
export interface ProcessIdentity {
  readonly pid: number
  /** Clock ticks since boot, field 22 of /proc/PID/stat. */
  readonly startTicks: string
}

export interface StartedDaemon extends ProcessIdentity {
  /** Resolves at its end: the signal that killed it, null where it ended by itself. */
  readonly killedBy: Promise<NodeJS.Signals | null>
}

/**
 * Starts a daemon in a session of its own, so that it outlives us, and waits until its API answers.
 * @throws DRIVER_UNSUPPORTED in the daemon's words, DAEMON_START with the last lines of its log
 */
export async function startDaemon(command: DaemonCommand): Promise<StartedDaemon> {
  const ours = command.nydusdPath === ''
  const file = ours ? process.execPath : command.nydusdPath
  const args = ours
    ? [...NODE_ARGS, fileURLToPath(new URL('../bin/nydusd.js', import.meta.url)), ...command.args]
    : command.args
  const logFd = openSync(command.logPath, 'a', 0o600)
  const names = Object.fromEntries(command.kept.map(({ name }, index) => [name, FIRST_KEPT_FD + index]))
  const child = spawn(file, args, {
    detached: true,
    cwd: '/',
    stdio: ['ignore', logFd, logFd, 'pipe', ...command.kept.map(({ fd }) => fd)],
    env: { ...process.env, [KEPT_DESCRIPTORS_ENV]: JSON.stringify(names), NYDUS_READY_FD: String(READY_FD) },
  })
  closeSync(logFd)
  const killedBy = new Promise<NodeJS.Signals | null>(resolve => {
    child.once('exit', (_code, signal) => resolve(signal))
  })
  const ready = child.stdio[READY_FD] as NodeJS.ReadableStream & { destroy(): void }
  try {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`no answer within ${START_TIMEOUT_MS} ms`)),
        START_TIMEOUT_MS,
      )
      const settle = (outcome: () => void): void => {
        clearTimeout(timer)
        outcome()
      }
      child.once('error', err => settle(() => reject(err)))
      ready.once('data', () => settle(resolve))
      ready.once('end', () => settle(() => reject(new Error('it ended before its API answered'))))
    })
  } catch (err) {
    child.kill('SIGKILL')
    const unsupported = UNSUPPORTED.exec(readEnd(command.logPath))?.[1]
    if (unsupported !== undefined) throw fault('DRIVER_UNSUPPORTED', unsupported, { cause: err })
    throw fault('DAEMON_START', `nydusd does not start: ${lastWords(command.logPath, err)}`, { cause: err })
  } finally {
    ready.destroy()
    child.unref()
  }
  if (child.pid === undefined) throw fault('DAEMON_START', `nydusd does not start: ${file} cannot be run`)
  const identity = identify(child.pid)
  if (!identity) throw fault('DAEMON_START', `nydusd ended at once: ${lastWords(command.logPath)}`)
  return { ...identity, killedBy }
}

/** Undefined when there is no such process (or only its remains). */
export function identify(pid: number): ProcessIdentity | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // The second field is the name in parentheses and may hold anything: count from its end.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state, startTicks] = [fields[0], fields[19]]
  return state === 'Z' || state === 'X' || startTicks === undefined ? undefined : { pid, startTicks }
}

/** Resolves when the process has ended, at once when there is none. @throws CANCELLED when aborted */
export async function processEnded(pid: number, signal?: AbortSignal): Promise<void> {
  let pidFd: number
  try {
    pidFd = openPidfd(pid)
  } catch (err) {
    if (hasErrno(err, 'ESRCH')) return
    throw err
  }
  try {
    await waitForExit(pidFd, signal ? { signal } : {})
  } finally {
    closeSync(pidFd)
  }
}

/** The newest log line that says why, in the words of the daemon. */
function lastWords(logPath: string, err?: unknown): string {
  const last = readEnd(logPath).trimEnd().split('\n').at(-1) ?? ''
  const why = err instanceof Error ? `${err.message}; ` : ''
  return `${why}its log ${logPath} ends with: ${last.slice(-500)}`
}

/** The last 4 KiB of a file that may be of any size. */
function readEnd(path: string): string {
  const fd = openSync(path, 'r')
  try {
    const bytes = Buffer.alloc(4096)
    const length = readSync(fd, bytes, 0, bytes.length, Math.max(0, fstatSync(fd).size - bytes.length))
    return bytes.toString('utf8', 0, length)
  } finally {
    closeSync(fd)
  }
}
