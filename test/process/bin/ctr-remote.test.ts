import t from 'tap'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const PROGRAM = fileURLToPath(new URL('../../../src/bin/ctr-remote.js', import.meta.url))

/** A directory with a `ctr` that tells what it was given. */
const bin = t.testdir({
  ctr: '#!/bin/sh\nprintf "<%s>" "$@"\n[ "$1" = wait ] && exec sleep 60\n[ "$1" = fail ] && exit 7\nexit 0\n',
})
chmodSync(path.join(bin, 'ctr'), 0o755)

interface Outcome {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

function start(args: string[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(process.execPath, [PROGRAM, ...args], {
    env: { PATH: `${bin}:/usr/bin:/bin`, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  return child
}

async function run(args: string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const child = start(args, env)
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  return { code, signal, stdout, stderr }
}

t.test('any other command line is handed to ctr as it is', async t => {
  const line = ['-n', 'k8s.io', 'images', 'ls', '--quiet', 'a b', '']
  const outcome = await run(line)
  t.equal(outcome.code, 0)
  t.equal(outcome.stdout, '<-n><k8s.io><images><ls><--quiet><a b><>')
  t.equal((await run(['fail'])).code, 7, 'its exit status is ours')
  t.match((await run(['--help'])).stdout, /rpull[\s\S]*<--help>/, 'help says what was added')
})

t.test('a signal to ctr-remote reaches ctr, and its end becomes ours', async t => {
  const child = start(['wait'])
  await once(child.stdout, 'data')
  child.kill('SIGTERM')
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
  t.same({ code, signal }, { code: null, signal: 'SIGTERM' })
})

t.test('without ctr it says what is missing', async t => {
  const outcome = await run(['images', 'ls'], { PATH: '/nonexistent' })
  t.equal(outcome.code, 5)
  t.match(outcome.stderr, /^ctr-remote: ctr is not in PATH: install containerd.*\(FILE_MISSING\)\n$/)
})

t.test('bad use of rpull: one sentence and the documented exit code', async t => {
  const cases: [string[], number, RegExp][] = [
    [['image', 'rpull'], 2, /^ctr-remote: please provide an image reference/],
    [['images', 'rpull', 'a/UPPER'], 2, /^ctr-remote: image reference "a\/UPPER" has/],
    [['image', 'rpull', '--bogus', 'a/b'], 2, /^ctr-remote: unknown option '--bogus'/],
    [['i', 'rpull', '--label', '=x', 'a/b'], 2, /a label needs a key/],
    [['image', 'rpull', '--platform', 'linux', 'a/b'], 2, /a platform is written/],
    [['--timeout', 'soon', 'image', 'rpull', 'a/b'], 2, /a duration is written like/],
    [['image', 'rpull', '--tlscert', 'x.pem', 'a/b'], 2, /--tlscert and --tlskey belong together/],
    [
      ['-a', `${bin}/no.sock`, 'image', 'rpull', 'a/b'],
      8,
      /containerd does not answer at .*no\.sock: start it/,
    ],
  ]
  for (const [args, code, sentence] of cases) {
    const outcome = await run(args)
    t.equal(outcome.code, code, args.join(' '))
    t.match(outcome.stderr, sentence)
    t.notMatch(outcome.stderr, /\n\s+at /, 'no stack trace')
  }
  t.match((await run(['image', 'rpull', '--debug'])).stderr, /\n\s+at /, '--debug shows the stack')
})

t.test('flags before and after rpull and the environment name the socket', async t => {
  const named = /at (\S+): start it/
  const after = await run(['image', 'rpull', '--address', '/after.sock', 'a/b'])
  t.equal(named.exec(after.stderr)?.[1], '/after.sock')
  const before = await run(['--address=/before.sock', '--debug', 'image', 'rpull', 'a/b'])
  t.equal(named.exec(before.stderr)?.[1], '/before.sock')
  const environment = await run(['image', 'rpull', 'a/b'], { CONTAINERD_ADDRESS: '/env.sock' })
  t.equal(named.exec(environment.stderr)?.[1], '/env.sock')
})
