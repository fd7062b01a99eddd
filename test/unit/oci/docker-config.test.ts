import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import t from 'tap'
import { silentLogger } from '../../../src/common/log.js'
import { basicHeader, credentialChain, parseBasicAuth } from '../../../src/oci/credentials.js'
import { dockerConfigCredentials, dockerConfigPath } from '../../../src/oci/docker-config.js'

const directory = mkdtempSync(path.join(os.tmpdir(), 'docker-config-'))
t.teardown(() => rmSync(directory, { recursive: true }))
const file = path.join(directory, 'config.json')
const source = dockerConfigCredentials(file)
const write = (value: unknown): void =>
  writeFileSync(file, typeof value === 'string' ? value : JSON.stringify(value))
const b64 = (text: string): string => Buffer.from(text).toString('base64')

t.test('auths', async t => {
  t.equal(await source.find('r.io'), undefined, 'no file knows nobody')
  write({
    auths: {
      'r.io': { auth: b64('u:p:q') },
      'https://old.io/v1/': { auth: b64('o:p') },
      'https://index.docker.io/v1/': { username: 'hub', password: 'h' },
      'id.io': { auth: b64('u:p'), identitytoken: 'refresh' },
      'tok.io': { registrytoken: 'ready' },
      'bearer.io': { auth: b64(':tok') },
      'empty.io': {},
      'bad.io': { auth: '***' },
      'nocolon.io': { auth: b64('secretword') },
    },
  })
  t.same(await source.find('r.io'), { kind: 'basic', username: 'u', password: 'p:q' })
  t.same(await source.find('old.io'), { kind: 'basic', username: 'o', password: 'p' })
  for (const host of ['docker.io', 'registry-1.docker.io'])
    t.same(await source.find(host), { kind: 'basic', username: 'hub', password: 'h' })
  t.same(await source.find('id.io'), { kind: 'identity', token: 'refresh' })
  t.same(await source.find('tok.io'), { kind: 'bearer', token: 'ready' })
  t.same(await source.find('bearer.io'), { kind: 'bearer', token: 'tok' })
  t.equal(await source.find('empty.io'), undefined)
  t.equal(await source.find('other.io'), undefined)
  await t.rejects(source.find('bad.io'), { code: 'CREDENTIALS_INVALID', message: /bad.io/ })
  const failure = await source.find('nocolon.io').catch((err: unknown) => err)
  t.match(failure, { code: 'CREDENTIALS_INVALID' })
  t.notMatch(`${String(failure)}${JSON.stringify(failure)}`, /secretword|c2VjcmV0/)
})

t.test('files that are none', async t => {
  write('{"auths": {"r.io": {"auth": "c2VjcmV0"')
  const failure = await source.find('r.io').catch((err: unknown) => err)
  t.match(failure, { code: 'CREDENTIALS_INVALID', message: /not JSON/ })
  t.notMatch(String(failure) + String((failure as Error).cause), /c2VjcmV0/)
  write('[]')
  await t.rejects(source.find('r.io'), { code: 'CREDENTIALS_INVALID' })
})

t.test('helpers', async t => {
  const before = process.env['PATH']
  process.env['PATH'] = `${directory}:${before}`
  t.teardown(() => (process.env['PATH'] = before))
  const helper = (name: string, script: string): void => {
    const at = path.join(directory, `docker-credential-${name}`)
    writeFileSync(at, `#!/bin/sh\n${script}\n`)
    chmodSync(at, 0o755)
  }
  helper('echo', 'read host; printf \'{"Username":"%s","Secret":"s %s"}\' "$host" "$1"')
  helper('token', 'printf \'{"Username":"<token>","Secret":"refresh"}\'')
  helper('none', 'echo "credentials not found in native keychain"; exit 1')
  helper('broken', 'echo secret-output; exit 3')
  helper('noise', 'echo secret-output')
  write({
    credsStore: 'none',
    auths: { 'both.io': { auth: b64('u:p') } },
    credHelpers: {
      'r.io': 'echo',
      't.io': 'token',
      'b.io': 'broken',
      'n.io': 'noise',
      'm.io': 'missing',
      'x.io': '../x',
    },
  })
  t.same(await source.find('r.io'), { kind: 'basic', username: 'r.io', password: 's get' })
  t.same(await source.find('t.io'), { kind: 'identity', token: 'refresh' })
  t.equal(await source.find('other.io'), undefined)
  t.same(
    await source.find('both.io'),
    { kind: 'basic', username: 'u', password: 'p' },
    'auths after the store',
  )
  for (const [host, message] of [
    ['b.io', /failed/],
    ['n.io', /JSON/],
    ['m.io', /not in PATH/],
    ['x.io', /no name/],
  ] as const) {
    const failure = await source.find(host).catch((err: unknown) => err)
    t.match(failure, { code: 'CREDENTIALS_INVALID', message }, host)
    t.notMatch(String(failure) + JSON.stringify(failure), /secret-output/)
  }
  const chain = credentialChain(
    [source, { name: 'b', find: () => Promise.resolve({ kind: 'bearer', token: 'x' }) }],
    silentLogger,
  )
  t.same(await chain.find('b.io'), { kind: 'bearer', token: 'x' }, 'a broken source is passed over')
  t.same(await chain.find('r.io'), { kind: 'basic', username: 'r.io', password: 's get' })
  t.equal(await credentialChain([], silentLogger).find('r.io'), undefined)
})

t.test('names and headers', async t => {
  t.equal(dockerConfigPath({ DOCKER_CONFIG: '/etc/d' }), '/etc/d/config.json')
  t.match(dockerConfigPath({}), /\/\.docker\/config\.json$/)
  t.equal(basicHeader({ username: 'ü', password: 'p' }), `Basic ${b64('ü:p')}`)
  t.same(parseBasicAuth(` ${b64('u:p\0\0')}\n`, 'x'), { kind: 'basic', username: 'u', password: 'p' })
})
