/** How figures are taken and told: ratios of two things measured by turns in one run. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { promisify } from 'node:util'

/** Seconds, or whatever else is measured; less or more is better as the figure says. */
export type Sample = () => Promise<number>

/** A B A B …: whatever the machine does meanwhile, it does to both. Returns the medians. */
export async function byTurns(rounds: number, a: Sample, b: Sample): Promise<{ a: number; b: number }> {
  const all = { a: [] as number[], b: [] as number[] }
  for (let round = 0; round < rounds; round++) {
    all.a.push(await a())
    all.b.push(await b())
  }
  return { a: median(all.a), b: median(all.b) }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((x, y) => x - y)
  const middle = Math.floor(sorted.length / 2)
  const upper = sorted[middle] ?? NaN
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? NaN)) / 2
}

/**
 * Runs a program without standing in the way of this process, which also has a registry's log to read.
 * @throws when it fails
 */
export async function runCommand(file: string, args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(file, args, { encoding: 'utf8', maxBuffer: 1 << 24 })
  return stdout
}

/** Seconds that a program takes. @throws when it fails */
export async function timeCommand(file: string, args: readonly string[]): Promise<number> {
  const started = performance.now()
  await runCommand(file, args)
  return (performance.now() - started) / 1000
}

export interface Figure {
  readonly name: string
  readonly value: number
  readonly target: { readonly atLeast: number } | { readonly atMost: number }
  /** Of the value; none for a ratio. */
  readonly unit?: string
  /** Both sides as they were measured. */
  readonly detail: string
}

export function report(figure: Figure): void {
  const { name, value, target, unit = '', detail } = figure
  const [word, limit] = 'atLeast' in target ? ['>=', target.atLeast] : ['<=', target.atMost]
  const met = 'atLeast' in target ? value >= limit : value <= limit
  const text = `${unit === '' || unit === ' s' ? value.toFixed(2) : Math.round(value)}${unit}`
  const wanted = `${word} ${limit}${unit}`
  process.stdout.write(
    `${name.padEnd(58)} ${text.padStart(8)}  ${wanted.padEnd(9)} ${met ? 'met   ' : 'MISSED'}  ${detail}\n`,
  )
}

/** What the figures were taken on. */
export function machineLine(): string {
  const model = /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? os.arch()
  const memory = `${Math.round(os.totalmem() / 2 ** 30)} GiB`
  const load = os.loadavg()[0]?.toFixed(1)
  const kernel = `Linux ${os.release()}`
  return `${os.availableParallelism()} processors (${model.trim()}), ${memory}, ${kernel}, Node ${process.version}, load ${load}`
}

export function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`
}
