import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'

const PROGRAM = path.resolve(import.meta.dirname, '../../src/bin/nydusify.js')

export interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

interface SpawnOptions {
  cwd?: string
  env?: NodeJS.ProcessEnv
  /** Of Node. */
  execArgs?: readonly string[]
}

/** Starts nydusify with its output in pipes, and another one at descriptor 3. */
export function spawnNydusify(args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  const { execArgs = [], ...rest } = options
  const env = { ...process.env, ...options.env }
  const stdio = ['ignore', 'pipe', 'pipe', 'pipe'] as const
  return spawn(process.execPath, [...execArgs, PROGRAM, ...args], { ...rest, env, stdio: [...stdio] })
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

/** What a process took, as the kernel counts it. */
const REPORT = `
  import { readFileSync, writeSync } from 'node:fs'
  process.on('exit', () => {
    const { user, system } = process.cpuUsage()
    const [, peak] = /VmHWM:\\s+([0-9]+)/.exec(readFileSync('/proc/self/status', 'utf8'))
    writeSync(3, JSON.stringify({ processorSeconds: (user + system) / 1e6, peakMib: peak / 1024 }))
  })`

export interface Measured {
  readonly seconds: number
  readonly processorSeconds: number
  /** Of resident memory. */
  readonly peakMib: number
  readonly stdout: string
  /** All figures in a line. */
  readonly told: string
}

/** Runs nydusify and tells what that took. @throws when it fails */
export async function measureNydusify(args: readonly string[]): Promise<Measured> {
  const started = performance.now()
  const execArgs = ['--import', `data:text/javascript,${encodeURIComponent(REPORT)}`]
  const child = spawnNydusify(args, { execArgs })
  const report = text(child.stdio[3] as Readable)
  const [stdout, stderr] = await Promise.all([text(child.stdout!), text(child.stderr!), once(child, 'close')])
  if (child.exitCode !== 0) throw new Error(`nydusify ${args.join(' ')}: exit ${child.exitCode}: ${stderr}`)
  const seconds = (performance.now() - started) / 1000
  const took = JSON.parse(await report) as { processorSeconds: number; peakMib: number }
  const { processorSeconds, peakMib } = took
  const times = `${seconds.toFixed(1).padStart(7)} s ${processorSeconds.toFixed(1).padStart(7)} s of processors`
  return { ...took, seconds, stdout, told: `${times} ${peakMib.toFixed(0).padStart(5)} MiB` }
}
