import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { readNydusdTemplate } from '../../../src/snapshotter/backend-template.js'
import { scratch } from '../../helpers/scratch.js'

function read(t: Test, template: unknown): ReturnType<typeof readNydusdTemplate> {
  const file = path.join(scratch(t), 'nydusd.json')
  writeFileSync(file, typeof template === 'string' ? template : JSON.stringify(template))
  return readNydusdTemplate(file, true)
}

t.test('the shapes of a template', async t => {
  const config = { scheme: 'https', timeout: 5, auth: 'dTpw' }
  const backend = { type: 'registry', config }
  const usual = { mode: 'direct', enable_xattr: true }
  const fs_prefetch = { enable: true, threads_count: 8 }
  t.strictSame(
    read(t, {
      device: { backend, cache: { type: 'blobcache' } },
      mode: 'cached',
      fs_prefetch,
      of_theirs: [1],
    }),
    {
      backend,
      fuse: {
        ...usual,
        mode: 'cached',
        fs_prefetch,
        of_theirs: [1],
        device: { cache: { type: 'blobcache' } },
      },
    },
    'of fusedev',
  )
  t.strictSame(
    read(t, {
      type: 'bootstrap',
      config: { backend_type: 'registry', backend_config: config, prefetch_config: fs_prefetch },
    }),
    { backend, fuse: { ...usual, fs_prefetch } },
    'of fscache',
  )
  t.strictSame(
    read(t, { version: 2, backend: { type: 'registry', registry: config }, rafs: { mode: 'direct' } }),
    { backend, fuse: { version: 2, rafs: { mode: 'direct' } } },
    'version 2',
  )
  t.strictSame(read(t, { device: { backend: { type: 'localfs' } } }).backend, { type: 'localfs', config: {} })
})

t.test('templates that are none', async t => {
  t.strictSame(readNydusdTemplate('/nowhere/nydusd.json', false), {
    backend: { type: 'registry', config: {} },
    fuse: { mode: 'direct', enable_xattr: true },
  })
  t.throws(() => readNydusdTemplate('/nowhere/nydusd.json', true), { code: 'CONFIG_MISSING' })
  for (const wrong of [{}, [], 'null', { device: {} }, { config: { backend_type: 7 } }])
    t.throws(() => read(t, wrong), { code: 'CONFIG_INVALID', message: /names no backend/ })
  try {
    read(t, '{"auth": "c2VjcmV0"')
    t.fail('not JSON')
  } catch (err) {
    t.match(err, { code: 'CONFIG_INVALID' })
    t.notMatch(JSON.stringify([String(err), (err as Error).cause]), /c2VjcmV0/, 'the text is not quoted')
  }
})
