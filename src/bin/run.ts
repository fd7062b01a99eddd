import { CommanderError } from 'commander'
import { usageFault } from '../common/command-line.js'
import { asFault, type Fault, KINDS, fault, hasErrno } from '../common/fault.js'

/**
 * Runs a command line: sets the process title, turns what it throws into one sentence on standard error and the
 * documented exit code (docs/reference/errors.md). The stack is shown with `--log-level debug` or `trace`, or
 * ctr's `--debug`, only.
 * @param end called with the exit code when all is said, for a process that does not end by itself
 */
export function run(
  name: string,
  main: (argv: readonly string[]) => Promise<void>,
  end: (exitCode: number) => void = () => undefined,
): void {
  process.title = name
  const argv = process.argv.slice(2)
  // Whoever reads the output may have enough of it before its end, as `head` has.
  process.stdout.on('error', (err: Error) => {
    if (!hasErrno(err, 'EPIPE')) throw err
  })
  const report = (err: unknown): number => {
    const failure = err instanceof CommanderError ? usageFault(name, err) : asFault(err)
    if (!failure) return 0
    const sentence = failure.message.replaceAll('\n', ' ')
    process.stderr.write(`${name}: ${sentence} (${failure.code})\n`)
    if (wantsStack(argv)) process.stderr.write(`${stackOf(failure)}\n`)
    return (process.exitCode = KINDS[failure.kind].exit)
  }
  void main(argv)
    .then(() => 0, report)
    .then(end)
}

/** For what needs root: says so at once. @throws NOT_ROOT */
export function requireRoot(name: string): void {
  if (process.geteuid?.() !== 0) throw fault('NOT_ROOT', `${name} needs root: run it as root or with sudo`)
}

function wantsStack(argv: readonly string[]): boolean {
  if (argv.includes('--debug')) return true
  const at = argv.findIndex(arg => arg === '--log-level' || arg === '-l' || arg.startsWith('--log-level='))
  const level = at < 0 ? '' : (argv[at]?.split('=')[1] ?? argv[at + 1] ?? '')
  return level === 'debug' || level === 'trace'
}

function stackOf(failure: Fault): string {
  const lines = [failure.stack ?? '']
  for (let cause = failure.cause; cause instanceof Error; cause = cause.cause)
    lines.push(`caused by: ${cause.stack}`)
  return lines.join('\n')
}
