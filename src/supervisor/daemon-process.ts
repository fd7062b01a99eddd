import { spawn } from 'node:child_process'
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs'
import type { Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { DescriptorInfo } from '../client/api.js'
import { fault, hasErrno } from '../common/fault.js'
import { openPidfd, waitForExit } from '../native/process.js'

/** Environment variable that tells a daemon which inherited descriptor is which: a JSON object of name to number. */
export const KEPT_DESCRIPTORS_ENV = 'NYDUS_KEPT_DESCRIPTORS'
/** Set for a daemon that is to stand by: it says so before it takes anything, and waits for a line. */
export const STANDBY_ENV = 'NYDUS_STANDBY'
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
/** What our daemon says last. */
const SENTENCE = /^nydusd: .* \([A-Z_]+\)$/
/** And where the kernel cannot serve. */
const UNSUPPORTED = /(?:^|\n)nydusd: (.*) \(DRIVER_UNSUPPORTED\)\n$/

export interface DaemonCommand {
  /** `nydusd` to run; ours beside this file when empty. */
  readonly nydusdPath: string
  readonly args: readonly string[]
  /** Its standard output and error, appended. */
  readonly logPath: string
  readonly kept: readonly DescriptorInfo[]
  /**
   * The daemon is to replace one that still runs: it stands by with everything loaded and checked, and goes on when this
   * has ended the other.
   */
  readonly onStandby?: () => Promise<void>
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
  const logBegin = fstatSync(logFd).size
  const names = Object.fromEntries(command.kept.map(({ name }, index) => [name, FIRST_KEPT_FD + index]))
  const child = spawn(file, args, {
    detached: true,
    cwd: '/',
    stdio: ['ignore', logFd, logFd, 'pipe', ...command.kept.map(({ fd }) => fd)],
    env: {
      ...process.env,
      [KEPT_DESCRIPTORS_ENV]: JSON.stringify(names),
      NYDUS_READY_FD: String(READY_FD),
      ...(command.onStandby && { [STANDBY_ENV]: '1' }),
    },
  })
  closeSync(logFd)
  const killedBy = new Promise<NodeJS.Signals | null>(resolve => {
    child.once('exit', (_code, signal) => resolve(signal))
  })
  const unstarted = new Promise<never>((_resolve, reject) => child.once('error', reject))
  unstarted.catch(() => undefined)
  const channel = child.stdio[READY_FD] as Socket
  try {
    const lines = readLines(channel)
    const heard = (): Promise<string> => Promise.race([nextLine(lines), unstarted])
    if (command.onStandby) {
      const line = await heard()
      if (line !== 'STANDBY') throw new Error('it does not know how to stand by for another daemon')
      await command.onStandby()
      channel.write('GO\n')
    }
    await heard()
  } catch (err) {
    child.kill('SIGKILL')
    const unsupported = UNSUPPORTED.exec(readEnd(command.logPath, logBegin))?.[1]
    if (unsupported !== undefined) throw fault('DRIVER_UNSUPPORTED', unsupported, { cause: err })
    throw fault('DAEMON_START', `nydusd does not start: ${lastWords(command.logPath, logBegin, err)}`, {
      cause: err,
    })
  } finally {
    channel.destroy()
    child.unref()
  }
  if (child.pid === undefined) throw fault('DAEMON_START', `nydusd does not start: ${file} cannot be run`)
  const identity = identify(child.pid)
  if (!identity) throw fault('DAEMON_START', `nydusd ended at once: ${lastWords(command.logPath, logBegin)}`)
  return { ...identity, killedBy }
}

function readLines(channel: Socket): AsyncIterator<string, undefined> {
  // Its end comes with its process, which is told of elsewhere.
  channel.on('error', () => undefined)
  return createInterface(channel)[Symbol.asyncIterator]() as AsyncIterator<string, undefined>
}

async function nextLine(lines: AsyncIterator<string, undefined>): Promise<string> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    const failure = new Error(`no answer within ${START_TIMEOUT_MS} ms`)
    timer = setTimeout(() => reject(failure), START_TIMEOUT_MS)
  })
  try {
    const line = await Promise.race([lines.next(), late])
    if (line.done === true) throw new Error('it ended before its API answered')
    return line.value
  } finally {
    clearTimeout(timer)
  }
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

/** Why it ended, in the words of the daemon: its sentence, behind which a stack may stand, or the newest line of its log. */
function lastWords(logPath: string, from: number, err?: unknown): string {
  const lines = readEnd(logPath, from).trimEnd().split('\n')
  const last = lines.findLast(line => SENTENCE.test(line)) ?? lines.at(-1) ?? ''
  const why = err instanceof Error ? `${err.message}; ` : ''
  return `${why}its log ${logPath} ends with: ${last.slice(-500)}`
}

/** The last 4 KiB of a file that may be of any size, of what came after `from`. */
function readEnd(path: string, from: number): string {
  const fd = openSync(path, 'r')
  try {
    const bytes = Buffer.alloc(4096)
    const length = readSync(fd, bytes, 0, bytes.length, Math.max(from, fstatSync(fd).size - bytes.length))
    return bytes.toString('utf8', 0, length)
  } finally {
    closeSync(fd)
  }
}
