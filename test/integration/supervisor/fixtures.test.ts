import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { fixturesDirectory, rafsV6Images } from '../../helpers/rafs-fixtures.js'
import { scratch } from '../../helpers/scratch.js'
import { checkTree, kernelPathMissing, supervise } from '../../helpers/supervised.js'

const fixtures = fixturesDirectory()
const skip = kernelPathMissing() || (fixtures === undefined ? 'needs the shared fixtures' : false)
const PERFECT = '1684 entries, 0 differences'

for (const image of fixtures === undefined ? [] : rafsV6Images(fixtures)) {
  t.test(`${image.name} of the reference tools reads right, cold and after a restart`, { skip }, async t => {
    const directory = scratch(t)
    const backend = { type: 'localfs', config: { dir: image.blobs } }
    const node = await supervise(t, directory, backend)
    const mountpoint = join(directory, 'mnt')
    const mounted = await node.supervisor.mount({
      id: '1',
      imageRef: `test/${image.name}`,
      bootstrapPath: image.bootstrap,
      mountpoint,
      labels: {},
    })
    t.ok(['fanotify', 'fscache'].includes(mounted.driver), mounted.driver)
    t.equal(await checkTree(fixtures ?? '', mountpoint), PERFECT)

    // A new snapshotter adopts the daemon; then the daemon itself is replaced.
    const before = await node.daemonPid()
    const supervisor = await node.restartSupervisor()
    t.equal(supervisor.get('1')?.mountpoint, mountpoint)
    t.equal(await node.daemonPid(), before, 'the daemon was adopted')
    writeFileSync('/proc/sys/vm/drop_caches', '3')
    t.equal(await checkTree(fixtures ?? '', mountpoint), PERFECT)
  })
}
