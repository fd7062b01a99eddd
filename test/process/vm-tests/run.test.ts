import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'

const repo = path.resolve(import.meta.dirname, '../../../..')
const vmTests = path.join(repo, 'vm-tests')

/** Cases that end in every way there is; what matters is that none of them passes unnoticed. */
const CASES = {
  good: 'test -d "$2" && echo "  DATA holds $(cat "$2/made" 2>&1)"',
  bad: 'echo the reason >&2; exit 3',
  skipped: 'echo nothing here >&2; exit 77',
  slow: 'sleep 1000',
  leaves: 'mount -t tmpfs tmpfs /mnt; sleep 1000 >/dev/null 2>&1 & exit 0',
  after: 'test ! -e /mnt/x && ! grep -q " /mnt " /proc/mounts && test "$(ls "$STATE")" = ""',
  panic: 'echo c >/proc/sysrq-trigger; sleep 60',
  never: 'exit 0',
  nowhere: 'exit 0',
}
const PREPARE: Record<string, string> = {
  good: 'echo prepared >"$2/made"',
  unready: 'echo no such thing; exit 1',
  unwanted: 'echo not on this machine; exit 77',
}
/** Kernels of vm-tests/kernels; the default for those that are not named. */
const KERNEL: Record<string, string> = { nowhere: 'nonesuch' }

interface Outcome {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
}

function writeCases(): string {
  const dir = t.testdir()
  for (const name of new Set([...Object.keys(CASES), ...Object.keys(PREPARE)])) {
    const run = (CASES as Record<string, string>)[name] ?? 'exit 0'
    fs.writeFileSync(
      path.join(dir, `${name}.sh`),
      `# timeout: 8\n# kernel: ${KERNEL[name] ?? 'fscache'}\ncase $1 in\nprepare) ${PREPARE[name] ?? ':'} ;;\nrun) ${run} ;;\nesac\n`,
    )
  }
  return dir
}

const environment = (cases: string): NodeJS.ProcessEnv => ({
  ...process.env,
  NYDUS_VM_CASES: cases,
  NYDUS_VM_LOGS: path.join(cases, 'logs'),
  TMPDIR: fs.mkdtempSync(path.join(cases, 'tmp-')),
})

async function runCases(env: NodeJS.ProcessEnv, ...names: string[]): Promise<Outcome> {
  const child = spawn(path.join(vmTests, 'run.sh'), names, { env, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill())
  let stdout = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk))
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  t.comment(stdout)
  return { code, signal, stdout }
}

/** Every process whose arguments or open working place is the run's directory. */
const leftIn = (dir: string): string[] =>
  fs
    .readdirSync('/proc')
    .filter(name => /^\d+$/.test(name) && name !== String(process.pid))
    .filter(pid => {
      try {
        return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(dir)
      } catch {
        return false
      }
    })

// Building the kernel takes minutes: that is for vm-tests/run.sh itself.
const built = spawnSync(path.join(vmTests, 'kernels/fscache.sh'), ['--print']).status === 0
const skip = built ? false : 'the test kernel is not built: run vm-tests/run.sh boot once'

t.setTimeout(300_000)
const options = { skip, timeout: 280_000 }

t.test('each way a case can end is told and counted', options, async t => {
  const env = environment(writeCases())
  const names = [
    'nowhere',
    'good',
    'bad',
    'skipped',
    'slow',
    'leaves',
    'after',
    'unready',
    'unwanted',
    'panic',
    'never',
  ]
  const { code, stdout } = await runCases(env, ...names)
  t.equal(code, 1)
  t.match(stdout, /^ {2}DATA holds prepared\nok {3}good \(\d+ s\)$/m)
  t.match(stdout, /^FAIL bad \(\d+ s, exit 3\).*\n {2}\| the reason$/m)
  t.match(stdout, /^skip skipped: nothing here$/m)
  t.match(stdout, /^FAIL slow \(\d+ s\): its time of 8 s was up/m)
  t.match(stdout, /^ok {3}leaves/m)
  t.match(stdout, /^ok {3}after/m, 'what the case before left behind is gone')
  t.match(stdout, /^FAIL unready: its preparation on the host ended with 1.*\n {2}\| no such thing$/m)
  t.match(stdout, /^skip unwanted: not on this machine$/m)
  t.match(stdout, /^FAIL nowhere: the test kernel cannot be made$/m)
  t.match(stdout, /^FAIL panic: the VM ended before its verdict$/m)
  t.match(stdout, /^FAIL never: the VM ended before its verdict$/m)
  t.match(stdout, /sysrq triggered crash/, 'the console is shown')
  t.match(stdout.trimEnd().split('\n').at(-1), '3 passed, 6 failed, 2 skipped')
  t.strictSame(fs.readdirSync(env['TMPDIR'] ?? ''), [], 'nothing is left of the run')
})

t.test('a signal ends the VM and leaves nothing', options, async t => {
  const env = environment(writeCases())
  const tmp = env['TMPDIR'] ?? ''
  const child = spawn(path.join(vmTests, 'run.sh'), ['good', 'slow'], {
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  for await (const chunk of child.stdout.setEncoding('utf8')) if (String(chunk).includes('ok   good')) break
  t.ok(leftIn(tmp).length > 0, 'QEMU is at work')
  child.kill('SIGTERM')
  const [code] = (await once(child, 'exit')) as [number | null]
  t.equal(code, 143)
  t.strictSame(leftIn(tmp), [])
  t.strictSame(fs.readdirSync(tmp), [])
})

t.test('nothing to run, nothing to build with', { timeout: 60_000 }, async t => {
  const env = environment(writeCases())
  const run = (...args: string[]) => spawnSync(path.join(vmTests, 'run.sh'), args, { env, encoding: 'utf8' })
  const unknown = run('nonsense')
  t.equal(unknown.status, 2)
  t.match(unknown.stderr, /no case 'nonsense'.*good/)
  t.equal(run('--nonsense').status, 2)
  t.strictSame(
    run('--list').stdout.trimEnd().split('\n'),
    fs
      .readdirSync(env['NYDUS_VM_CASES'] ?? '')
      .filter(f => f.endsWith('.sh'))
      .map(f => path.basename(f, '.sh'))
      .sort(),
  )
  const without = spawnSync(path.join(vmTests, 'run.sh'), ['good'], {
    env: { ...env, NYDUS_VM_KERNEL: '/nonexistent/bzImage' },
    encoding: 'utf8',
  })
  t.equal(without.status, 0)
  t.match(without.stderr, 'NYDUS_VM_KERNEL=/nonexistent/bzImage cannot be read')
  t.match(without.stdout, /skip good: no test kernel\n.*\n0 passed, 0 failed, 1 skipped/)
})
