import t from 'tap'
import { silentLogger } from '../../../src/common/log.js'
import type { Credential } from '../../../src/oci/credentials.js'
import { backendConfigSource } from '../../../src/snapshotter/backend-config.js'
import { LABELS } from '../../../src/snapshotter/labels.js'

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
