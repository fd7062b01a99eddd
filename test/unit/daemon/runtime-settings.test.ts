import t from 'tap'
import { requireMountConfig, parseDaemonConfig } from '../../../src/daemon/config.js'
import { checkSettings, RuntimeSettings, settingsOf } from '../../../src/daemon/runtime-settings.js'

t.test('settings by mount', async t => {
  const settings = new RuntimeSettings()
  settings.seed('/', { registry_auth: 'first', proxy_url: 'http://p' })
  settings.seed('/a', {})
  t.strictSame(settings.list('/'), { registry_auth: 'first', proxy_url: 'http://p' })
  t.strictSame(settings.list('/nowhere'), {})
  settings.put('/', { registry_auth: 'second' })
  settings.put('/a', { dragonfly_scheduler_endpoint: 'http://d' })
  settings.seed('/', { registry_auth: 'first' })
  t.equal(settings.list('/')['registry_auth'], 'second', 'what was put stays')
  t.strictSame(settings.list(undefined), {
    '/:registry_auth': 'second',
    '/:proxy_url': 'http://p',
    '/a:dragonfly_scheduler_endpoint': 'http://d',
  })
  for (const wrong of [{ registry_auth: 'third', registry_token: 's3cret' }, { ['__proto__x']: '' }]) {
    const failure = t.throws(() => checkSettings(wrong), { code: 'CONFIG_INVALID' }) as Error
    t.notMatch(failure.message, /s3cret/)
  }
  t.strictSame(checkSettings({ proxy_url: '' }), { proxy_url: '' })
  settings.forget('/')
  t.strictSame(settings.list('/'), {})
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
