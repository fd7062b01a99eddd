/** What follows the death of a daemon that serves by FUSE, by daemon.recover_policy. */
import { randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RecoverPolicy } from '../../../src/supervisor/watched-daemon.js'
import { runReader } from '../../helpers/fuse-daemon.js'
import { until } from '../../helpers/lazy-node.js'
import { buildImage } from '../../helpers/rafs-image.js'
import { startFaultRegistry } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'
import { fanotifyMissing, fuseMissing, fuseOptions, supervise } from '../../helpers/supervised.js'

t.setTimeout(300_000)

const DATA = randomBytes(1024 * 1024)
/** ENOTCONN; ECONNABORTED for what was under way. */
const LOST = /not connected|connection abort/

async function mounted(t: Test, recoverPolicy: RecoverPolicy) {
  const directory = scratch(t)
  const at = (name: string): string => join(directory, name)
  const image = buildImage([{ name: 'file', mode: 0o100644, data: DATA }])
  mkdirSync(at('blobs'))
  writeFileSync(at('image.boot'), image.bootstrap)
  writeFileSync(join(at('blobs'), image.blobId), image.blob)
  writeFileSync(at('copy'), DATA)
  const backend = { type: 'localfs', config: { dir: at('blobs') } }
  const fuse = fuseOptions(directory, { recoverPolicy })
  const node = await supervise(t, directory, backend, { driver: 'fuse', fuse })
  const spec = { id: '1', imageRef: 'a/b', bootstrapPath: at('image.boot'), mountpoint: at('m'), labels: {} }
  const { mountpoint } = await node.supervisor.mount(spec)
  const pid = async (): Promise<number> => (await node.supervisor.daemons())[0]?.pid ?? 0
  return { node, spec, pid, file: join(mountpoint, 'file'), copy: at('copy') }
}

const reads = (file: string, copy: string): Promise<string> =>
  runReader('sh', '-c', `cmp ${file} ${copy} 2>&1 && echo same || true`)

t.test('none: the mounts are lost and nobody is started', { skip: fuseMissing }, async t => {
  const { node, spec, pid, file, copy } = await mounted(t, 'none')
  t.match(await reads(file, copy), 'same')
  process.kill(await pid(), 'SIGKILL')
  await until('it is gone', async () => (await pid()) === 0)
  t.match(await reads(file, copy), LOST)
  await t.rejects(node.supervisor.mount({ ...spec, id: '2' }), { code: 'DAEMON_UNAVAILABLE' })
  t.equal(await pid(), 0)
})

t.test(
  'restart: what was open is lost, what is opened from then on is served',
  { skip: fuseMissing },
  async t => {
    const { node, pid, file, copy } = await mounted(t, 'restart')
    const before = await pid()
    // A process in the mount, as a container is.
    const inside = runReader(
      'sh',
      '-c',
      `cd ${join(file, '..')} && echo in >&2 && kill -9 ${before} && sleep 0.2; cat file 2>&1 >/dev/null || true`,
    )
    t.match(await inside, LOST)
    await until('another daemon serves', async () => ![0, before].includes(await pid()))
    await until('the image is shown again', async () => (await reads(file, copy)).includes('same'))
    await t.rejects(node.supervisor.upgrade(''), {
      code: 'UPGRADE_FAILED',
      message: 'should set recover policy to failover to enable hot upgrade',
    })
  },
)

t.test('a daemon that keeps crashing is waited with, and that is told', { skip: fuseMissing }, async t => {
  const { node, pid, file, copy } = await mounted(t, 'failover')
  for (let crash = 1; crash <= 3; crash++) {
    const before = await pid()
    process.kill(before, 'SIGABRT')
    if (crash < 3) await until('the next one serves', async () => ![0, before].includes(await pid()))
  }
  await until('a pause is told', async () => {
    const [daemon] = await node.supervisor.daemons()
    return daemon !== undefined && daemon.deaths === 3 && daemon.restartInMs > 0
  })
  t.match(await reads(file, copy), 'same', 'readers wait it out')
})

t.test(
  "a daemon that is told to end denies nobody: what it has not answered is its successor's",
  { skip: fanotifyMissing },
  async t => {
    const directory = scratch(t)
    const at = (name: string): string => join(directory, name)
    const image = buildImage([{ name: 'file', mode: 0o100644, data: DATA }])
    const registry = await startFaultRegistry(t)
    registry.addBlob(image.blob, { as: `sha256:${image.blobId}` })
    writeFileSync(at('image.boot'), image.bootstrap)
    writeFileSync(at('copy'), DATA)
    const backend = {
      type: 'registry',
      config: { scheme: 'http', host: registry.host, repo: 'app', timeout: 30 },
    }
    const node = await supervise(t, directory, backend, { driver: 'fanotify' })
    const spec = {
      id: '1',
      imageRef: 'a/b',
      bootstrapPath: at('image.boot'),
      mountpoint: at('m'),
      labels: {},
    }
    const { mountpoint } = await node.supervisor.mount(spec)
    const held = registry.hold({ target: 'blob' })
    const reading = reads(join(mountpoint, 'file'), at('copy'))
    await held.arrived
    const before = await node.daemonPid()
    process.kill(before, 'SIGTERM')
    await until('another daemon serves', async () => {
      const [daemon] = await node.supervisor.daemons()
      return daemon !== undefined && daemon.pid !== 0 && daemon.pid !== before
    })
    held.release()
    t.match(await reading, 'same')
  },
)
