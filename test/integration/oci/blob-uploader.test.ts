import { randomBytes } from 'node:crypto'
import t from 'tap'
import type { Test } from 'tap'
import { fixedCredential } from '../../../src/oci/credentials.js'
import { RegistryClient, type RegistryClientOptions } from '../../../src/oci/registry-client.js'
import { digestOf, type FaultRegistry, startFaultRegistry } from '../../helpers/registry.js'

const BLOB = randomBytes(500_000)
const DIGEST = digestOf(BLOB)

function clientOf(
  t: Test,
  registry: FaultRegistry,
  options: Partial<RegistryClientOptions> = {},
): RegistryClient {
  const client = new RegistryClient({
    host: registry.host,
    uploadPieceBytes: 200_000,
    retry: { baseDelayMs: 1, maxDelayMs: 5 },
    ...options,
  })
  t.teardown(() => client.close())
  return client
}

t.test('an upload survives what registries do', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const faults = [
    ['POST', { status: 503 }],
    ['PATCH', { status: 500 }],
    ['PATCH', { reset: true }],
    ['PATCH', { cutRequestAfter: 70_000 }],
    ['PUT', { status: 502 }],
    ['PUT', { reset: true }],
  ] as const
  for (const [method, fault] of faults) {
    const content = randomBytes(500_000)
    const digest = digestOf(content)
    const skip = method === 'PATCH' ? 1 : 0
    const injected = registry.inject({ target: 'upload', method }, fault, { times: 2, skip })
    t.same(await client.uploadBlob('app', [content]), { digest, size: 500_000 })
    t.equal(injected.hits, 2, `${method} ${JSON.stringify(fault)}`)
    t.ok(Buffer.from(registry.blob(digest) ?? []).equals(content))
  }
  const ranges = registry.requests('upload', 'PATCH').map(e => e.headers['content-range'])
  t.ok(ranges.includes('340000-399999'), 'after a cut only the rest of a piece is sent again')
})

t.test('an answer that was lost is not a failure', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  for (const method of ['PATCH', 'PUT']) {
    // The registry does its work; the connection is cut in place of the answer.
    const injected = registry.inject({ target: 'upload', method }, { loseAnswer: true }, { times: 1 })
    t.same(await client.uploadBlob('app', [BLOB]), { digest: DIGEST, size: BLOB.length })
    t.equal(injected.hits, 1)
    t.ok(Buffer.from(registry.blob(DIGEST) ?? []).equals(BLOB), method)
  }
})

t.test('uploads that end in a fault are given up at the registry', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const expected = { digest: digestOf(Buffer.from('other')) }
  await t.rejects(client.uploadBlob('app', [BLOB], { expected }), { code: 'DIGEST_MISMATCH' })
  t.equal(registry.requests('upload', 'DELETE').length, 1)
  await t.rejects(client.uploadBlob('app', [BLOB], { expected: { digest: DIGEST, size: 1 } }), {
    code: 'DIGEST_MISMATCH',
  })
  const source = (async function* () {
    yield BLOB
    throw new Error('source broke')
  })()
  await t.rejects(client.uploadBlob('app', source), { message: 'source broke' })
  t.equal(registry.requests('upload', 'DELETE').length, 3)
  registry.inject({ target: 'upload', method: 'PATCH' }, { status: 404 }, { times: 1 })
  await t.rejects(client.uploadBlob('app', [BLOB]), { code: 'REGISTRY_PROTOCOL', message: /forgotten/ })
  const down = registry.inject({ target: 'upload', where: e => e.method !== 'POST' }, { status: 503 })
  await t.rejects(client.uploadBlob('app', [BLOB]), { code: 'REGISTRY_UNAVAILABLE' })
  down.remove()
  registry.inject(
    { target: 'upload', method: 'POST' },
    { status: 202, headers: { location: 'http://elsewhere.invalid/x' } },
    { times: 1 },
  )
  await t.rejects(client.uploadBlob('app', [BLOB]), { code: 'REGISTRY_PROTOCOL', message: /no Location/ })
  const abort = new AbortController()
  const hold = registry.hold({ target: 'upload', method: 'POST' })
  const upload = client.uploadBlob('app', [BLOB], { signal: abort.signal })
  await hold.arrived
  abort.abort()
  await t.rejects(upload, { code: 'CANCELLED' })
  hold.release()
  t.equal(registry.blob(DIGEST), undefined, 'nothing half-made became a blob')
})

t.test('existence, mounts and manifests', async t => {
  const auth = { username: 'u', password: 'p', method: 'bearer' } as const
  const registry = await startFaultRegistry(t, { auth })
  const credentials = fixedCredential({ kind: 'basic', username: 'u', password: 'p' })
  const client = clientOf(t, registry, { credentials })
  t.notOk(await client.hasBlob('app', DIGEST))
  registry.addBlob(BLOB, { repository: 'base' })
  t.notOk(await client.mountBlob('app', digestOf(Buffer.from('?')), 'base'), 'the registry began an upload')
  t.equal(registry.requests('upload', 'DELETE').length, 1, 'which is given up')
  registry.inject({ target: 'upload', method: 'POST' }, { status: 403 }, { times: 1 })
  t.notOk(await client.mountBlob('app', DIGEST, 'base'), 'no right to read the other one')
  t.ok(await client.mountBlob('app', DIGEST, 'base'))
  t.ok(await client.hasBlob('app', DIGEST))
  const scopes = registry.requests('token').flatMap(e => e.query.getAll('scope'))
  t.ok(scopes.includes('repository:base:pull') && scopes.includes('repository:app:pull,push'))

  registry.inject({ target: 'manifest', method: 'PUT' }, { status: 500 }, { times: 1 })
  const bytes = Buffer.from('{"schemaVersion":2}')
  const put = await client.putManifest('app', 'v1', 'application/vnd.oci.image.manifest.v1+json', bytes)
  t.equal(put.digest, digestOf(bytes))
  t.ok(Buffer.from(registry.manifest('v1') ?? []).equals(bytes))
  registry.inject({ target: 'manifest', method: 'PUT' }, { status: 400 }, { times: 1 })
  await t.rejects(client.putManifest('app', 'v1', 'x', bytes), { code: 'REGISTRY_PROTOCOL' })
})
