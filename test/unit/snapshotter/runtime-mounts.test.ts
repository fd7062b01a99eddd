import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { RuntimeMounts } from '../../../src/snapshotter/runtime-mounts.js'
import { scratch } from '../../helpers/scratch.js'
import { exampleBootstrap } from '../../helpers/worked-example.js'

t.test('the option says what a guest needs to mount the image', async t => {
  const bootstrapPath = path.join(scratch(t), 'image.boot')
  writeFileSync(bootstrapPath, exampleBootstrap())
  const backend = { type: 'registry', config: { host: 'example.com', repo: 'app', auth: 'c2VjcmV0' } }
  const mounts = new RuntimeMounts({
    helper: '/opt/overlay',
    template: { mode: 'direct' },
    backendConfig: () => Promise.resolve(backend),
    cacheDirectory: '/cache',
  })
  const spec = { id: '3', imageRef: 'example.com/app', bootstrapPath, mountpoint: '/m', labels: {} }
  const { helper, option } = await mounts.mountOf(spec, '/r/snapshots/9')
  t.equal(helper, '/opt/overlay')
  t.match(option, /^extraoption=[A-Za-z0-9+/]+=*$/, 'no comma, which would end the option')
  const told = JSON.parse(Buffer.from(option.slice('extraoption='.length), 'base64').toString()) as Record<
    string,
    string
  >
  t.match(told, { source: bootstrapPath, snapshotdir: '/r/snapshots/9', fs_version: 'v6' })
  t.strictSame(JSON.parse(told['config'] ?? ''), {
    mode: 'direct',
    device: { id: '/3', backend, cache: { type: 'blobcache', config: { work_dir: '/cache' } } },
  })
})
