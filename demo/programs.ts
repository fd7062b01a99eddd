import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** One of this project's command lines, by name. */
export function program(name: string): string {
  return fileURLToPath(new URL(`../src/bin/${name}.js`, import.meta.url))
}

/** Runs a program to its end; its output goes to `log`, and the end of it into the error. */
export async function runProgram(command: string, args: string[], log: string): Promise<void> {
  const child = startProgram(command, args, log)
  const code = await new Promise<number | NodeJS.Signals | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (status, signal) => resolve(status ?? signal))
  })
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${code}:\n${tailOf(log)}`)
}

/** Starts one that goes on running. */
export function startProgram(command: string, args: string[], log: string): ChildProcess {
  const out = openSync(log, 'a')
  const child = spawn(command, args, { stdio: ['ignore', out, out] })
  closeSync(out)
  return child
}

export function tailOf(log: string): string {
  return readFileSync(log, 'utf8').trimEnd().split('\n').slice(-15).join('\n')
}
