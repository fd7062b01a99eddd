import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { rootMissing, scratch } from '../helpers/scratch.js'
import { startSnapshotsServer } from '../helpers/snapshots-server.js'
import { snapshotsSuite } from './snapshots-suite.js'

t.test('our suite', { skip: rootMissing }, async t => {
  snapshotsSuite(t, directory => startSnapshotsServer(directory))
})

/** containerd's own suite; Go fetches it, at versions that go.sum pins. */
const RUNNER = path.resolve(import.meta.dirname, '../../../test/conformance/containerd/run.sh')
const goMissing = spawnSync('go', ['version']).error ? 'needs Go' : false

t.test(
  "containerd's suite",
  { skip: rootMissing !== false ? rootMissing : goMissing, timeout: 600_000 },
  async t => {
    const server = await startSnapshotsServer(scratch(t))
    t.teardown(() => server.close())
    const runner = spawn(RUNNER, [server.socket], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [output] = await Promise.all([text(runner.stdout), once(runner, 'exit')])
    if (runner.exitCode === 3) {
      t.pass('skipped', { skip: 'Go cannot build the suite here' })
      return
    }
    const failures = output.split('\n').filter(line => line.includes('--- FAIL'))
    t.strictSame(failures, [])
    t.match(output, /^conformance: 21 passed, 0 failed, 0 skipped$/m)
  },
)
