import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { DaemonClient } from '../../../src/client/daemon-client.js'
import { fault } from '../../../src/common/fault.js'
import { silentLogger } from '../../../src/common/log.js'
import { DEFAULT_FUSE_TEMPLATE } from '../../../src/supervisor/fuse-config.js'
import { FusePath } from '../../../src/supervisor/fuse-path.js'
import type { ImageRecord } from '../../../src/supervisor/image-record.js'
import { scratch } from '../../helpers/scratch.js'

t.test('only a mount that failed keeps an image on FUSE', async t => {
  const directory = scratch(t)
  const bootstrapPath = join(directory, 'image.boot')
  writeFileSync(bootstrapPath, 'not one')
  const answers: (() => { data_all_ready: boolean })[] = [
    () => {
      throw fault('DAEMON_UNAVAILABLE', 'it is being replaced')
    },
    () => ({ data_all_ready: false }),
    () => ({ data_all_ready: true }),
  ]
  const client = { blobcache: async () => answers.shift()?.() } as unknown as DaemonClient
  const path = new FusePath(
    {
      backendConfig: () => Promise.reject(new Error('nobody asks for it')),
      fuseTemplate: DEFAULT_FUSE_TEMPLATE,
      logger: silentLogger,
    },
    () => ({
      daemon: { call: run => run(client), keepDescriptors: () => Promise.resolve() },
      cacheDirectory: directory,
    }),
  )
  const mountpoint = join(directory, 'mnt')
  const record: ImageRecord = {
    spec: { id: '1', imageRef: 'test/app', bootstrapPath, mountpoint, labels: {} },
    fsid: 'fsid',
    state: 'mounted',
    superblocks: [],
    fuse: { daemon: 'shared', mountpoint: join(directory, 'fuse'), path: '/1', version: 6 },
  }
  for (const reason of ['the daemon is away for a moment', 'it is not complete']) {
    t.equal(await path.takeOver(record), false, reason)
    t.ok(path.mayTakeOver(record), 'it is asked again')
  }
  t.equal(await path.takeOver(record), false, 'the kernel does not mount it')
  t.notOk(path.mayTakeOver(record))
  t.equal(await path.takeOver(record), false)
})
