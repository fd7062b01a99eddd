/** The system controller of the real process. */
import path from 'node:path'
import t from 'tap'
import { runProgram } from '../../helpers/command-line.js'
import { scratch } from '../../helpers/scratch.js'
import { runSnapshotter, startSnapshotter } from '../../helpers/snapshotter-process.js'

const needsRoot = process.geteuid?.() === 0 ? false : 'needs root'

t.test('a snapshotter is asked by nydusctl, and a second one is refused', { skip: needsRoot }, async t => {
  const directory = scratch(t)
  const { root, socket } = await startSnapshotter(t, directory)
  const system = path.join(path.dirname(socket), 'system.sock')
  const listed = await runProgram(t, 'nydusctl', ['--system-sock', system, '--raw', 'daemons', 'list'])
  t.match(listed, { code: 0, stdout: '[]\n' })
  const fds = await runProgram(t, 'nydusctl', ['--system-sock', system, 'fds'])
  t.match(fds, { code: 0, stdout: 'descriptor  daemon  snapshotter  holder  manager\n' })

  const mode = ['--daemon-mode', 'none', '--log-to-stdout']
  const sameRoot = await runSnapshotter(['--root', root, '--address', path.join(directory, 'b/s'), ...mode])
  t.equal(sameRoot.code, 6)
  t.match(sameRoot.stderr, /held by another process.*\(STORE_LOCKED\)/)
  const other = path.join(directory, 'other')
  const sameSystem = await runSnapshotter([
    ...['--root', other, '--address', path.join(directory, 'c/s'), '--api-socket', system],
    ...mode,
  ])
  t.equal(sameSystem.code, 6)
  t.match(sameSystem.stderr, /another process answers .*system\.address \(ADDRESS_IN_USE\)/)
  const still = await runProgram(t, 'nydusctl', ['--system-sock', system, 'daemons', 'list'])
  t.equal(still.code, 0, 'the first one goes on')
})

t.test('nobody answers', async t => {
  const gone = await runProgram(t, 'nydusctl', [
    '--system-sock',
    path.join(scratch(t), 's'),
    'daemons',
    'list',
  ])
  t.equal(gone.code, 8)
  t.match(gone.stderr, /system\.address .*\(SYSTEM_UNAVAILABLE\)/)
})
