import t from 'tap'
import { RuntimeSettings } from '../../../src/daemon/runtime-settings.js'

t.test('settings by mount', async t => {
  const settings = new RuntimeSettings()
  settings.seed('/', { registry_auth: 'first', proxy_url: 'http://p' })
  settings.seed('/a', {})
  t.strictSame(settings.list('/'), { registry_auth: 'first', proxy_url: 'http://p' })
  t.strictSame(settings.list('/nowhere'), {})
  settings.put('/', { registry_auth: 'second' })
  settings.put('/a', { dragonfly_scheduler_endpoint: 'http://d' })
  settings.seed('/', { registry_auth: 'first' })
  t.equal(settings.get('/', 'registry_auth'), 'second', 'what was put stays')
  t.strictSame(settings.list(undefined), {
    '/:registry_auth': 'second',
    '/:proxy_url': 'http://p',
    '/a:dragonfly_scheduler_endpoint': 'http://d',
  })
  for (const wrong of [{ registry_auth: 'third', registry_token: 's3cret' }, { ['__proto__x']: '' }]) {
    const failure = t.throws(() => settings.put('/', wrong), { code: 'CONFIG_INVALID' }) as Error
    t.notMatch(failure.message, /s3cret/)
  }
  t.equal(settings.get('/', 'registry_auth'), 'second', 'nothing of a wrong request is put')
  settings.forget('/')
  t.strictSame(settings.list('/'), {})
})
