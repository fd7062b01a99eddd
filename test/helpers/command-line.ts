import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import type { Test } from 'tap'

export interface Outcome {
  code: number | null
  stdout: string
  stderr: string
}

/** Reason to skip what runs as nobody; false where it can. */
export const setprivMissing =
  process.geteuid?.() !== 0
    ? 'needs root'
    : spawnSync('setpriv', ['--version']).error
      ? 'needs setpriv (Debian package util-linux)'
      : false

/** A line that does not end by itself is a failure of the test; Node alone takes seconds on a busy machine. */
const TIMEOUT_MS = 120_000

/** The compiled entry file of a program. */
export function programPath(name: string): string {
  return path.resolve(import.meta.dirname, `../../src/bin/${name}.js`)
}

/** Runs a program of ours to its end, as a real process; with `nobody` not as root. */
export async function runProgram(
  t: Pick<Test, 'teardown'>,
  name: string,
  args: readonly string[],
  options: { nobody?: boolean; env?: NodeJS.ProcessEnv; input?: string } = {},
): Promise<Outcome> {
  const line = [process.execPath, programPath(name), ...args]
  const [file = '', ...rest] = options.nobody
    ? ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', ...line]
    : line
  const child = spawn(file, rest, {
    cwd: '/',
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  })
  t.teardown(() => child.kill('SIGKILL'))
  // A program that does not read what it is given may end first.
  child.stdin.on('error', () => undefined).end(options.input)
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (part: Buffer) => (stdout += part.toString()))
  child.stderr.on('data', (part: Buffer) => (stderr += part.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, stdout, stderr }
}
