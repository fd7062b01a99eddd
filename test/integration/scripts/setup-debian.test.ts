import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'

const repo = path.resolve(import.meta.dirname, '../../../..')
const script = path.join(repo, 'scripts/setup-debian.sh')
const setup = (args: string[], env: NodeJS.ProcessEnv = process.env) =>
  spawnSync('/bin/sh', [script, ...args], { encoding: 'utf8', env })
const list = (...sets: string[]): string[] =>
  setup(['--list', ...sets])
    .stdout.trimEnd()
    .split('\n')

t.test('sets: test holds demo and vm, demo holds build, nothing twice', t => {
  const all = list('test', 'demo')
  t.strictSame(all, [...new Set(all)])
  for (const name of [...list('demo'), ...list('vm'), ...list('build')]) t.ok(all.includes(name), name)
  t.end()
})

t.test('usage', t => {
  for (const args of [[], ['--check'], ['nonsense'], ['--force', 'demo']]) {
    const bad = setup(args)
    t.equal(bad.status, 2, args.join(' '))
    t.match(bad.stderr, /usage: setup-debian\.sh/)
  }
  t.end()
})

t.test('without apt: says what the packages would have been', t => {
  const bin = t.testdir()
  for (const tool of ['tr', 'sort', 'grep', 'id']) {
    fs.symlinkSync(
      execFileSync('/bin/sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).trim(),
      path.join(bin, tool),
    )
  }
  const bare = setup(['demo'], { PATH: bin })
  t.equal(bare.status, 3)
  t.match(bare.stderr, /no apt.*containerd/)
  t.end()
})

const apt = spawnSync('apt-cache', ['show', 'containerd'], { encoding: 'utf8' })
t.test(
  'every package is known to apt',
  { skip: apt.status === 0 ? false : 'no apt, or no package lists' },
  t => {
    const known = spawnSync('apt-cache', ['show', ...list('test')], { encoding: 'utf8' }).stdout
    for (const name of list('test')) {
      // Ubuntu's kernel source has another name; the script says so.
      if (name === 'linux-source-6.12' && !fs.readFileSync('/etc/os-release', 'utf8').includes('bookworm'))
        continue
      t.match(known, `Package: ${name}\n`)
    }
    t.end()
  },
)

t.test(
  '--check names what is missing and installs nothing',
  { skip: apt.status === 0 ? false : 'no apt' },
  t => {
    const before = execFileSync('dpkg-query', ['-W'], { encoding: 'utf8' })
    const checked = setup(['--check', 'test'])
    if (checked.status === 0) t.match(checked.stdout, 'every package is there')
    else t.match(checked.stdout, /^setup: missing: /)
    t.equal(execFileSync('dpkg-query', ['-W'], { encoding: 'utf8' }), before)
    t.end()
  },
)
