import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { readMountTable } from '../../src/native/mount-table.js'
import { processesOf } from '../helpers/lazy-node.js'
import { rootMissing, scratch } from '../helpers/scratch.js'
import { startSnapshotsServer } from '../helpers/snapshots-server.js'
import { startSnapshotter } from '../helpers/snapshotter-process.js'
import { fuseMissing } from '../helpers/supervised.js'
import { snapshotsSuite } from './snapshots-suite.js'

t.test('our suite', { skip: rootMissing }, async t => {
  snapshotsSuite(t, directory => startSnapshotsServer(directory))
})

/** containerd's own suite; Go fetches it, at versions that go.sum pins. */
const RUNNER = path.resolve(import.meta.dirname, '../../../test/conformance/containerd/run.sh')
const goMissing = spawnSync('go', ['version']).error ? 'needs Go' : false

/** Runs it against a socket. */
async function containerdSuite(t: Test, socket: string): Promise<void> {
  const runner = spawn(RUNNER, [socket], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [output] = await Promise.all([text(runner.stdout), once(runner, 'exit')])
  if (runner.exitCode === 3) {
    t.pass('skipped', { skip: 'Go cannot build the suite here' })
    return
  }
  const failures = output.split('\n').filter(line => line.includes('--- FAIL'))
  t.strictSame(failures, [])
  t.match(output, /^conformance: 21 passed, 0 failed, 0 skipped$/m)
}

const skip = rootMissing !== false ? rootMissing : goMissing
const timeout = 600_000

t.test("containerd's suite", { skip, timeout }, async t => {
  const server = await startSnapshotsServer(scratch(t))
  t.teardown(() => server.close())
  await containerdSuite(t, server.socket)
})

t.test(
  "containerd's suite, with a daemon for FUSE beside it",
  { skip: skip || fuseMissing, timeout },
  async t => {
    const directory = scratch(t)
    const flags = ['--daemon-backend', 'fusedev', '--cleanup-on-close']
    const snapshotter = await startSnapshotter(t, directory, flags)
    await containerdSuite(t, snapshotter.socket)
    t.match(await snapshotter.end('SIGTERM'), { code: 0 })
    t.strictSame(
      readMountTable().filter(({ mountpoint }) => mountpoint.startsWith(directory)),
      [],
      'clean-up on close leaves no mount',
    )
    t.strictSame(processesOf(directory), [], 'and no daemon')
  },
)
