import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { silentLogger } from '../../../src/common/log.js'
import type { Credential } from '../../../src/oci/credentials.js'
import { backendConfigSource, readNydusdTemplate } from '../../../src/snapshotter/backend-template.js'
import { LABELS } from '../../../src/snapshotter/labels.js'
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

const template = { type: 'registry', config: { timeout: 7, auth: 'dGVtcGxhdGU6cA==', skip_verify: true } }
const spec = (imageRef: string, labels = {}) => ({
  id: '1',
  imageRef,
  bootstrapPath: '/b',
  mountpoint: '/m',
  labels,
})

function source(credential?: Credential, asked: string[] = []) {
  const credentials = {
    name: 'test',
    find: (host: string) => {
      asked.push(host)
      return Promise.resolve(credential)
    },
  }
  return backendConfigSource(template, credentials, silentLogger)
}

t.test('a registry is filled in for each image', async t => {
  const asked: string[] = []
  t.strictSame(await source(undefined, asked)(spec('127.0.0.1:5000/team/app:nydus')), {
    type: 'registry',
    config: { ...template.config, host: '127.0.0.1:5000', repo: 'team/app' },
  })
  t.match(await source(undefined, asked)(spec('busybox')), {
    config: { host: 'registry-1.docker.io', repo: 'library/busybox' },
  })
  t.strictSame(asked, ['127.0.0.1:5000', 'registry-1.docker.io'])
  await t.rejects(source()(spec('Not A Ref')), { code: 'REFERENCE_INVALID' })
})

t.test('credentials of the moment', async t => {
  const base64 = (text: string) => Buffer.from(text).toString('base64')
  const fill = async (credential?: Credential, labels = {}) => {
    const { config } = await source(credential)(spec('example.com/app', labels))
    return JSON.parse(JSON.stringify(config)) as Record<string, unknown>
  }
  t.equal((await fill())['auth'], template.config.auth, "without one the template's own stays")
  t.equal((await fill({ kind: 'basic', username: 'u', password: 'p' }))['auth'], base64('u:p'))
  const bearer = await fill({ kind: 'bearer', token: 'tok' })
  t.equal(bearer['registry_token'], 'tok')
  t.notOk('auth' in bearer)
  const labels = { [LABELS.pullUsername]: 'label', [LABELS.pullSecret]: 'secret' }
  const both = await fill({ kind: 'basic', username: 'u', password: 'p' }, labels)
  t.equal(both['auth'], base64('label:secret'), 'labels come first')
  t.equal((await fill({ kind: 'identity', token: 'x' }))['auth'], template.config.auth)
})

t.test('other backends stay as they are', async t => {
  const localfs = { type: 'localfs', config: { dir: '/blobs' } }
  const credentials = { name: 'none', find: () => Promise.reject(new Error('not asked')) }
  t.strictSame(
    await backendConfigSource(localfs, credentials, silentLogger)(spec('example.com/app')),
    localfs,
  )
})
