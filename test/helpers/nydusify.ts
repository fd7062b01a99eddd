import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { text } from 'node:stream/consumers'

const PROGRAM = path.resolve(import.meta.dirname, '../../src/bin/nydusify.js')

export interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

/** Starts nydusify with its output in pipes. */
export function spawnNydusify(
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): ChildProcess {
  const env = { ...process.env, ...options.env }
  return spawn(process.execPath, [PROGRAM, ...args], { ...options, env, stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Runs nydusify to its end. */
export async function nydusify(
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Ended> {
  const child = spawnNydusify(args, options)
  const [stdout, stderr] = await Promise.all([text(child.stdout!), text(child.stderr!), once(child, 'close')])
  return { code: child.exitCode, stdout, stderr }
}
