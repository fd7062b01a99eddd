import { existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { rootMissing, scratch } from '../../helpers/scratch.js'
import { runSnapshotter, startSnapshotter } from '../../helpers/snapshotter-process.js'

t.test('version and usage', async t => {
  const version = await runSnapshotter(['--version'])
  t.equal(version.code, 0)
  t.match(version.stdout, /^Version: \S+\nRevision: \S+\nNode version: v\S+\nBuild time: \S+\n$/)
  const help = await runSnapshotter(['--help'])
  t.equal(help.code, 0)
  t.match(help.stdout, /--nydusd-config <path>/)
  t.notMatch(help.stdout, /--enable-stargz/, 'flags of old releases are taken and not shown')
})

t.test(
  'a wrong command line or configuration is one sentence and a documented code',
  { skip: rootMissing },
  async t => {
    const directory = scratch(t)
    const toml = path.join(directory, 'c.toml')
    writeFileSync(toml, 'version = 1\ncolour = "blue"\n')
    const template = path.join(directory, 'nydusd.json')
    writeFileSync(template, '{')
    const args = ['--root', path.join(directory, 'root'), '--address', path.join(directory, 'run/s')]
    const samples: [string[], number, RegExp][] = [
      [['--rooot', '/x'], 2, /unknown option '--rooot' \(did you mean --root\?\): .* \(USAGE\)\n$/],
      [['--sync-remove=perhaps'], 2, /takes true or false/],
      [['--config', '/nowhere'], 3, /no such file/],
      [['--config', toml], 3, /unknown key colour/],
      [['--daemon-backend', 'fscash'], 3, /daemon.fs_driver is fscash, not one of/],
      [[...args, '--nydusd-config', template], 3, /is not JSON/],
    ]
    for (const [argv, code, sentence] of samples) {
      const ended = await runSnapshotter(argv)
      t.equal(ended.code, code, argv.join(' '))
      t.match(ended.stderr, sentence)
      t.notMatch(ended.stderr, /^\s+at /m, 'no stack trace')
    }
  },
)

t.test('not root: said at once', { skip: rootMissing }, async t => {
  const ended = await runSnapshotter(['--config', '/nowhere'], 65534)
  t.equal(ended.code, 4)
  t.match(ended.stderr, /needs root.*NOT_ROOT/)
})

t.test('one process a root and a socket', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const server = await startSnapshotter(t, directory)
  t.equal(statSync(path.dirname(server.socket)).mode & 0o777, 0o700)
  t.equal(statSync(server.socket).mode & 0o077, 0)
  t.equal(statSync(server.root).mode & 0o777, 0o700)
  const other = path.join(directory, 'other')
  const sameRoot = await runSnapshotter([
    '--root',
    server.root,
    '--address',
    path.join(other, 's'),
    '--log-to-stdout',
  ])
  t.match(sameRoot, { code: 6, stderr: /STORE_LOCKED/ })
  const sameSocket = await runSnapshotter(['--root', other, '--address', server.socket, '--log-to-stdout'])
  t.match(sameSocket, { code: 6, stderr: /is served by another process.*ADDRESS_IN_USE/ })
  await server.client.prepare('still', '')
  t.match(await server.end('SIGTERM'), { code: 0 })
  t.notOk(existsSync(server.socket), 'the socket goes with an orderly end')
  t.match(server.log.at(-1), { msg: 'stopped' })
})

t.test('a socket that nobody listens on is replaced, another file is not', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const first = await startSnapshotter(t, directory)
  await first.client.prepare('a', '')
  await first.end('SIGKILL')
  t.ok(existsSync(first.socket))
  const second = await startSnapshotter(t, directory)
  t.equal((await second.client.stat('a')).kind, 'active')
  t.match(await second.end('SIGINT'), { code: 0 })
  mkdirSync(path.dirname(first.socket), { recursive: true })
  writeFileSync(first.socket, 'mine')
  const third = await runSnapshotter(['--root', first.root, '--address', first.socket, '--log-to-stdout'])
  t.match(third, { code: 3, stderr: /is not a socket/ })
})

t.test('calls under way are finished', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const first = await startSnapshotter(t, directory)
  const calls = Array.from({ length: 100 }, (_, index) => first.client.prepare(`k${index}`, ''))
  await Promise.race(calls)
  const ended = first.end('SIGTERM')
  const outcomes = await Promise.allSettled(calls)
  t.match(await ended, { code: 0 })
  const done = outcomes.flatMap(({ status }, index) => (status === 'fulfilled' ? [`k${index}`] : []))
  t.ok(done.length > 0)
  const second = await startSnapshotter(t, directory)
  const listed = new Set((await second.client.list()).map(({ name }) => name))
  t.strictSame(
    done.filter(name => !listed.has(name)),
    [],
  )
})

t.test(
  'what has no effect yet is warned about, and plain layers work without images',
  { skip: rootMissing },
  async t => {
    const flags = ['--daemon-backend', 'proxy', '--enable-stargz']
    const server = await startSnapshotter(t, scratch(t), flags)
    const warnings = server.log.filter(({ level }) => level === 40).map(({ msg }) => String(msg))
    t.match(
      warnings.join('\n'),
      /fs_driver proxy comes with a later release[^]*experimental.enable_stargz has no effect yet/,
    )
    await server.client.prepare('a', '')
    await server.client.commit('base', 'a')
    t.equal((await server.client.prepare('b', 'base'))[0]?.type, 'overlay')
  },
)
