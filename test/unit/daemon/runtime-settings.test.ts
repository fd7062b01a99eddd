import t from 'tap'
import { requireMountConfig, parseDaemonConfig } from '../../../src/daemon/config.js'
import {
  checkSettings,
  listSettings,
  type Settings,
  settingsOf,
} from '../../../src/daemon/runtime-settings.js'

t.test('settings by mount', async t => {
  const mounts: [string, { settings: Settings }][] = [
    ['/', { settings: { registry_auth: 'second', proxy_url: 'http://p' } }],
    ['/a', { settings: { dragonfly_scheduler_endpoint: 'http://d' } }],
    ['/b', { settings: {} }],
  ]
  t.strictSame(listSettings(mounts), {
    '/:registry_auth': 'second',
    '/:proxy_url': 'http://p',
    '/a:dragonfly_scheduler_endpoint': 'http://d',
  })
})

t.test('a key that there is not', async t => {
  for (const wrong of [{ registry_auth: 'third', registry_token: 's3cret' }, { ['__proto__x']: '' }]) {
    const failure = t.throws(() => checkSettings(wrong), { code: 'CONFIG_INVALID' }) as Error
    t.notMatch(failure.message, /s3cret/)
  }
  t.strictSame(checkSettings({ proxy_url: '' }), { proxy_url: '' })
})

t.test('what a configuration says about them', async t => {
  const of = (backend: object) =>
    settingsOf(
      requireMountConfig(parseDaemonConfig(JSON.stringify({ version: 2, backend, cache: {}, rafs: {} }))),
    )
  const registry = {
    host: 'r',
    repo: 'a',
    auth: 'dTpw',
    proxy: { url: '', dragonfly_scheduler_endpoint: 'http://d' },
  }
  t.strictSame(of({ type: 'registry', registry }), {
    registry_auth: 'dTpw',
    dragonfly_scheduler_endpoint: 'http://d',
  })
  t.strictSame(of({ type: 'localfs', localfs: { dir: '/b' } }), {})
})
