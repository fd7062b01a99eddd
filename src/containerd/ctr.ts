import { spawn } from 'node:child_process'
import { fault, hasErrno } from '../common/fault.js'

const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/**
 * Runs containerd's own `ctr` in our place: same standard streams, and its exit status or signal becomes ours.
 * @throws FILE_MISSING when there is no ctr in PATH
 */
export async function runCtr(argv: readonly string[]): Promise<void> {
  const child = spawn('ctr', argv, { stdio: 'inherit' })
  // A terminal signals both of us, `kill` only this process: ctr alone decides what it means.
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal)
  for (const signal of FORWARDED) process.on(signal, forward)
  const signal = await new Promise<NodeJS.Signals | null>((resolve, reject) => {
    child.once('error', err => reject(hasErrno(err, 'ENOENT') ? noCtr(err) : err))
    child.once('exit', (code, killedBy) => {
      process.exitCode = code ?? 1
      resolve(killedBy)
    })
  })
  for (const each of FORWARDED) process.off(each, forward)
  if (signal) process.kill(process.pid, signal)
}

function noCtr(cause: unknown): Error {
  return fault(
    'FILE_MISSING',
    'ctr is not in PATH: install containerd; of ctr-remote itself there is only "image rpull"',
    { cause },
  )
}
