/** Images of the reference tools by FUSE: served, adopted, handed to a successor, and taken over by the kernel. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { ImageSpec } from '../../../src/supervisor/image-mounts.js'
import { findFuseMount } from '../../../src/native/mount-table.js'
import { erofsMissing } from '../../helpers/erofs-image.js'
import { fixturesDirectory, rafsImages } from '../../helpers/rafs-fixtures.js'
import { scratch } from '../../helpers/scratch.js'
import { checkTree, fuseMissing, fuseOptions, supervise } from '../../helpers/supervised.js'
import { until } from '../../helpers/lazy-node.js'

const fixtures = fixturesDirectory()
const skip = fuseMissing || (fixtures === undefined ? 'needs the shared fixtures' : false)
const PERFECT = '1684 entries, 0 differences'
const dropCaches = (): void => writeFileSync('/proc/sys/vm/drop_caches', '3')

t.setTimeout(300_000)

const versions = ['v5', 'v6'] as const
for (const version of fixtures === undefined ? [] : versions) {
  for (const image of rafsImages(fixtures ?? '', version)) {
    t.test(`${image.name} by FUSE, and what follows`, { skip }, async t => {
      const directory = scratch(t)
      // Layers have chunks that the merged image does not use: only prefetch makes them local.
      const template = { mode: 'direct', fs_prefetch: { enable: true, prefetch_all: true } }
      const fuse = fuseOptions(directory, { template })
      const node = await supervise(
        t,
        directory,
        { type: 'localfs', config: { dir: image.blobs } },
        { driver: 'fuse', fuse },
      )
      const spec: ImageSpec = {
        id: '1',
        imageRef: `test/${image.name}`,
        bootstrapPath: image.bootstrap,
        mountpoint: join(directory, 'mnt'),
        labels: {},
      }
      const mounted = await node.supervisor.mount(spec)
      t.match(mounted, { driver: 'fuse', mountpoint: join(fuse.mountpoint, '1') })
      t.equal(await checkTree(fixtures ?? '', mounted.mountpoint), PERFECT)

      const before = await node.daemonPid()
      await node.restartSupervisor()
      t.equal(node.supervisor.get('1')?.mountpoint, mounted.mountpoint)
      t.equal(await node.daemonPid(), before, 'the daemon was adopted')
      process.kill(before, 'SIGKILL')
      dropCaches()
      t.equal(await checkTree(fixtures ?? '', mounted.mountpoint), PERFECT, 'while the daemon is replaced')
      t.not(await node.daemonPid(), before)
      if (version === 'v5' || erofsMissing !== false) return

      const client = node.client()
      await until('all of it is local', async () => (await client.blobcache('/1')).data_all_ready)
      const moved = await node.supervisor.mount(spec)
      t.match(moved, { driver: 'erofs', mountpoint: spec.mountpoint })
      const standing = await node.daemonPid()
      process.kill(standing, 'SIGSTOP')
      dropCaches()
      const seen = await checkTree(fixtures ?? '', moved.mountpoint)
      process.kill(standing, 'SIGCONT')
      t.equal(seen, PERFECT, 'by the kernel alone')
    })
  }
}

t.test('one daemon for each image', { skip }, async t => {
  const [image] = rafsImages(fixtures ?? '', 'v6')
  if (!image) throw new Error('there are no images')
  const directory = scratch(t)
  const node = await supervise(
    t,
    directory,
    { type: 'localfs', config: { dir: image.blobs } },
    { driver: 'fuse', fuse: fuseOptions(directory, { dedicated: true }) },
  )
  const ids = ['1', '2']
  const mounts = ids.map(id => join(directory, id, 'mnt'))
  for (const [index, id] of ids.entries()) {
    const mountpoint = mounts[index] ?? ''
    const spec = { id, imageRef: 'test/app', bootstrapPath: image.bootstrap, mountpoint, labels: {} }
    t.match(await node.supervisor.mount(spec), { driver: 'fuse', mountpoint })
    t.ok(findFuseMount(mountpoint))
    t.equal(await checkTree(fixtures ?? '', mountpoint), PERFECT)
  }
  await node.restartSupervisor()
  t.strictSame(
    node.supervisor.list().map(({ mountpoint }) => mountpoint),
    mounts,
  )
  await node.supervisor.unmount('1')
  await node.supervisor.released()
  t.notOk(findFuseMount(mounts[0] ?? ''))
  t.equal(await checkTree(fixtures ?? '', mounts[1] ?? ''), PERFECT, 'the other goes on')
  await node.supervisor.close({ cleanup: true })
  t.notOk(findFuseMount(mounts[1] ?? ''))
})
