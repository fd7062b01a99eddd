import { mkdtempSync, rmSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:net'
import { once } from 'node:events'
import os from 'node:os'
import path from 'node:path'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import type { Test } from 'tap'
import { fixedCredential } from '../../../src/oci/credentials.js'
import { RegistryClient, type RegistryClientOptions } from '../../../src/oci/registry-client.js'
import { makeCertificates } from '../../helpers/certificates.js'
import { digestOf, type FaultRegistry, startFaultRegistry } from '../../helpers/registry.js'

const BLOB = randomBytes(300_000)
const FAST = { baseDelayMs: 1, maxDelayMs: 5 }

function clientOf(
  t: Test,
  registry: FaultRegistry,
  options: Partial<RegistryClientOptions> = {},
): RegistryClient {
  const client = new RegistryClient({ host: registry.host, retry: FAST, ...options })
  t.teardown(() => client.close())
  return client
}

async function whole(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = []
  for await (const piece of stream) pieces.push(piece)
  return Buffer.concat(pieces)
}

t.test('ranges, streams, sizes and manifests of a well-behaved registry', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const digest = registry.addBlob(BLOB)
  const small = registry.addBlob(Buffer.from('{}'))
  await client.ping()
  t.equal(await client.fetchBlobSize('app', digest), BLOB.length)
  const range = await client.fetchBlobRange('app', digest, 1000, 70_000)
  t.ok(Buffer.from(range).equals(BLOB.subarray(1000, 71_000)))
  t.equal(range.buffer.byteLength, 70_000, 'the buffer is the range’s own and can be transferred')
  t.equal(registry.log.at(-1)?.range, 'bytes=1000-70999')
  t.ok((await whole(client.streamBlob('app', { digest, size: BLOB.length }))).equals(BLOB))
  t.equal((await client.fetchBlobRange('app', digest, 5, 0)).length, 0, 'an empty range asks nobody')

  const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: small, size: 2 }
  const manifest = registry.addManifest({ schemaVersion: 2, config, layers: [] }, { tag: 'v1' })
  const resolved = await client.resolve('app', 'v1')
  t.equal(resolved.digest, manifest)
  t.equal(registry.log.at(-1)?.method, 'HEAD')
  const fetched = await client.fetchManifest('app', resolved.digest)
  t.equal(fetched.descriptor.digest, manifest)
  t.equal(fetched.content.kind, 'manifest')
  t.equal((await client.fetchBlob('app', { digest: small }, 10)).length, 2)
  await t.rejects(client.fetchBlob('app', { digest }, 1000), { code: 'REGISTRY_PROTOCOL' })
  await t.rejects(client.fetchBlobSize('app', digestOf(Buffer.from('?'))), { code: 'REGISTRY_NOT_FOUND' })
  await t.rejects(client.resolve('app', 'no'), {
    code: 'REGISTRY_NOT_FOUND',
    message: /app:no does not exist/,
  })
})

t.test('transient failures are retried, and only so often', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const digest = registry.addBlob(BLOB)
  for (const fault of [{ status: 503 }, { status: 500 }, { reset: true }]) {
    const injected = registry.inject({ target: 'blob' }, fault, { times: 3 })
    t.equal((await client.fetchBlobRange('app', digest, 0, 10)).length, 10, JSON.stringify(fault))
    t.equal(injected.hits, 3)
  }
  const endless = registry.inject({ target: 'blob' }, { status: 503 })
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), {
    code: 'REGISTRY_UNAVAILABLE',
    retryable: true,
    message: /4 attempts/,
  })
  t.equal(endless.hits, 4, 'one attempt and three retries')
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10, { lane: 'background' }))
  t.equal(endless.hits, 6, 'nobody waits for background: one retry')
  endless.remove()
  t.equal((await client.fetchBlobRange('app', digest, 0, 10)).length, 10, 'no failure sticks')

  const wordy = { status: 503, body: Buffer.alloc(32 << 20), chunked: true }
  registry.inject({ target: 'blob' }, wordy, { times: 1 })
  registry.log.length = 0
  t.equal((await client.fetchBlobRange('app', digest, 0, 10)).length, 10)
  t.ok((registry.log[0]?.bytes ?? 0) < 16 << 20, 'an endless error page is not read to its end')

  const denied = registry.inject({ target: 'blob' }, { status: 403 })
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), { code: 'REGISTRY_UNAUTHORIZED' })
  t.equal(denied.hits, 1, 'a refusal is not retried')
})

t.test('a registry that is down is unavailable, and back when it is back', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry, { retryLimit: 1 })
  const digest = registry.addBlob(BLOB)
  await client.fetchBlobRange('app', digest, 0, 10)
  await registry.stop()
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), { code: 'REGISTRY_UNAVAILABLE' })
  await registry.start()
  t.equal((await client.fetchBlobRange('app', digest, 0, 10)).length, 10)
})

t.test('Retry-After is honoured within the budget', async t => {
  const registry = await startFaultRegistry(t)
  const digest = registry.addBlob(BLOB)
  registry.inject({ target: 'blob' }, { status: 429, headers: { 'retry-after': '1' } }, { times: 1 })
  const client = clientOf(t, registry)
  const began = performance.now()
  await client.fetchBlobRange('app', digest, 0, 10)
  t.ok(performance.now() - began >= 990, 'waited the second that was asked for')

  const injected = registry.inject({ target: 'blob' }, { status: 429, headers: { 'retry-after': '3600' } })
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), {
    code: 'REGISTRY_UNAVAILABLE',
    message: /too many requests/,
  })
  t.equal(injected.hits, 1, 'an hour is not waited for')
})

t.test('a body that is cut short is resumed where it stopped', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const digest = registry.addBlob(BLOB)
  registry.inject({ target: 'blob' }, { cutAfter: 100_000 }, { times: 2 })
  const range = await client.fetchBlobRange('app', digest, 7, 250_000)
  t.ok(Buffer.from(range).equals(BLOB.subarray(7, 250_007)))
  t.strictSame(
    registry.requests('blob').map(e => e.range),
    ['bytes=7-250006', 'bytes=100007-250006', 'bytes=200007-250006'],
  )
  registry.log.length = 0
  registry.inject({ target: 'blob' }, { cutAfter: 65_536 })
  t.ok(
    (await whole(client.streamBlob('app', { digest }))).equals(BLOB),
    'progress is no failure: it ends well',
  )
  t.strictSame(
    registry.requests('blob').map(e => e.range),
    [undefined, ...[1, 2, 3, 4].map(n => `bytes=${n * 65_536}-${BLOB.length - 1}`)],
  )
})

t.test('a chunked body without a length that ends early is resumed too', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const digest = registry.addBlob(BLOB)
  registry.inject(
    { target: 'blob' },
    { chunked: true, alter: bytes => bytes.subarray(0, 90_000) },
    { times: 1 },
  )
  const range = await client.fetchBlobRange('app', digest, 0, 200_000)
  t.ok(Buffer.from(range).equals(BLOB.subarray(0, 200_000)))
})

t.test('wrong ranges and lengths are refused', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const digest = registry.addBlob(BLOB)
  const once = { times: 1 }
  registry.inject({ target: 'blob' }, { headers: { 'content-range': `bytes 1-10/${BLOB.length}` } }, once)
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), {
    code: 'REGISTRY_PROTOCOL',
    message: /asked for bytes=0-9 and got bytes 1-10/,
    retryable: false,
  })
  registry.inject({ target: 'blob' }, { alter: b => Buffer.concat([b, b]), chunked: true }, once)
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), { message: /body is longer/ })
  await t.rejects(client.fetchBlobRange('app', digest, BLOB.length, 10), {
    message: /shorter than the range/,
  })
  registry.inject({ target: 'blob' }, { headers: { 'content-encoding': 'gzip' } }, once)
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), { message: /content-encoding gzip/ })
})

t.test('a registry that ignores Range', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const digest = registry.addBlob(BLOB)
  const big = registry.addBlob(randomBytes(1_200_000))
  registry.inject({ target: 'blob' }, { ignoreRange: true })
  const near = await client.fetchBlobRange('app', digest, 1000, 1000)
  t.ok(Buffer.from(near).equals(BLOB.subarray(1000, 2000)), 'near the start the rest is thrown away')
  const end = await client.fetchBlobRange('app', digest, BLOB.length - 10, 10)
  t.ok(Buffer.from(end).equals(BLOB.subarray(-10)))
  await t.rejects(client.fetchBlobRange('app', big, 1_100_000, 10), {
    code: 'REGISTRY_PROTOCOL',
    message: /ignores Range/,
  })
  await t.rejects(client.fetchBlobRange('app', digest, BLOB.length, 10), { message: /is outside of it/ })
})

t.test('silence and trickle end an attempt', async t => {
  const registry = await startFaultRegistry(t)
  const digest = registry.addBlob(BLOB)
  const client = clientOf(t, registry, { silenceTimeoutMs: 300, retryLimit: 0 })
  registry.inject({ target: 'blob' }, { stallAfter: 1000 }, { times: 1 })
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10_000), { message: /did not answer in time/ })
  registry.inject({ target: 'blob' }, { trickle: { bytes: 10, everyMs: 20 } }, { times: 1 })
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10_000), { message: /sent only \d+ bytes in/ })
  const hold = registry.hold({ target: 'blob' })
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10_000), { message: /did not answer in time/ })
  hold.release()
  const patient = clientOf(t, registry, { silenceTimeoutMs: 300, retryLimit: 1 })
  registry.inject({ target: 'blob' }, { stallAfter: 100_000 }, { times: 1 })
  t.equal((await patient.fetchBlobRange('app', digest, 0, 200_000)).length, 200_000)
})

t.test('a signal and close() end calls under way', async t => {
  const registry = await startFaultRegistry(t)
  const digest = registry.addBlob(BLOB)
  const client = clientOf(t, registry)
  const hold = registry.hold({ target: 'blob' })
  const abort = new AbortController()
  const first = client.fetchBlobRange('app', digest, 0, 10, { signal: abort.signal })
  await hold.arrived
  abort.abort()
  await t.rejects(first, { code: 'CANCELLED' })
  const second = client.fetchBlobRange('app', digest, 0, 10)
  second.catch(() => {})
  await client.close()
  await t.rejects(second, { code: 'CANCELLED' })
  hold.release()
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), { code: 'CANCELLED' })

  const slow = clientOf(t, registry, { retry: { baseDelayMs: 20_000, maxDelayMs: 20_000, budgetMs: 60_000 } })
  const failing = registry.inject({ target: 'blob' }, { status: 503, headers: { 'retry-after': '10' } })
  const waiting = slow.fetchBlobRange('app', digest, 0, 10, { signal: AbortSignal.timeout(500) })
  await t.rejects(waiting, { code: 'CANCELLED' }, 'also while it waits for its next attempt')
  t.equal(failing.hits, 1)
})

t.test('redirects: cached, refreshed, without our authorization', async t => {
  const auth = { username: 'u', password: 'p', method: 'bearer' } as const
  const registry = await startFaultRegistry(t, { redirect: true, auth })
  const credentials = fixedCredential({ kind: 'basic', username: 'u', password: 'p' })
  const client = clientOf(t, registry, { credentials })
  const digest = registry.addBlob(BLOB)
  t.ok(Buffer.from(await client.fetchBlobRange('app', digest, 10, 10)).equals(BLOB.subarray(10, 20)))
  await client.fetchBlobRange('app', digest, 20, 10)
  t.equal(registry.requests('store').length, 2)
  t.equal(registry.requests('blob').length, 2, 'the challenge and the redirect, once')
  t.ok(registry.requests('store').every(e => e.headers.authorization === undefined))

  registry.expireUrls()
  t.equal((await client.fetchBlobRange('app', digest, 20, 10)).length, 10, 'an expired URL is asked for anew')
  t.equal(registry.requests('blob').length, 3)
  for (const status of [400, 401, 404, 410]) {
    registry.inject({ target: 'store' }, { status }, { times: 1 })
    t.equal((await client.fetchBlobRange('app', digest, 20, 10)).length, 10, `${status} of the blob store`)
  }
  t.equal(registry.requests('blob').length, 7)
  t.equal(await client.fetchBlobSize('app', digest), BLOB.length, 'size through a redirect')
  registry.inject({ target: 'store', method: 'HEAD' }, { status: 403 })
  t.equal(await client.fetchBlobSize('app', digest), BLOB.length, 'a URL signed for GET alone')
  registry.inject({ target: 'store' }, { status: 403 })
  await t.rejects(client.fetchBlobRange('app', digest, 20, 10), {
    code: 'REGISTRY_UNAUTHORIZED',
    message: /^(?!.*sig=)/,
  })
})

t.test('redirects: loops, nonsense and plain HTTP', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry, { retryLimit: 0 })
  const digest = registry.addBlob(BLOB)
  const to = (location: string): void =>
    void registry.inject({ target: 'blob' }, { status: 307, headers: { location } }, { times: 1 })
  const loop = registry.inject(
    { target: 'blob' },
    { status: 302, headers: { location: `/v2/app/blobs/${digest}` } },
  )
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), { message: /more than 5 redirects/ })
  loop.remove()
  to('http://:bad:/')
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), { message: /usable Location/ })
  to('ftp://127.0.0.1/x')
  await t.rejects(client.fetchBlobRange('app', digest, 0, 10), { code: 'REGISTRY_PLAIN_HTTP' })
  to(`http://unused.invalid/store/${encodeURIComponent(`app@${digest}`)}?sig=1`)
  const overriding = clientOf(t, registry, { redirect: { scheme: 'http', host: registry.storeHost } })
  t.equal((await overriding.fetchBlobRange('app', digest, 0, 10)).length, 10, 'the configured host is asked')
})

t.test('token authentication', async t => {
  const auth = { username: 'u', password: 's3cret', method: 'bearer' } as const
  const registry = await startFaultRegistry(t, { auth })
  const digest = registry.addBlob(BLOB)
  const credentials = fixedCredential({ kind: 'basic', username: 'u', password: 's3cret' })
  const client = clientOf(t, registry, { credentials })
  await Promise.all(Array.from({ length: 8 }, () => client.fetchBlobRange('app', digest, 0, 10)))
  t.equal(registry.requests('token').length, 1, 'one token however many ask')
  t.equal(registry.requests('token')[0]?.query.get('scope'), 'repository:app:pull')
  await client.fetchBlobRange('app', digest, 0, 10)
  t.equal(registry.log.at(-1)?.status, 206, 'sent with the token at once')
  registry.expireTokens()
  t.equal((await client.fetchBlobRange('app', digest, 0, 10)).length, 10, 'a refused token is replaced')
  t.equal(registry.requests('token').length, 2)

  registry.expireTokens()
  const postOnly = registry.inject({ target: 'token', method: 'GET' }, { status: 405 })
  t.equal((await client.fetchBlobRange('app', digest, 0, 10)).length, 10, 'a server of the POST form only')
  t.equal(registry.requests('token', 'POST').length, 1)
  postOnly.remove()

  const identity = fixedCredential({ kind: 'identity', token: 's3cret' })
  t.equal(
    (await clientOf(t, registry, { credentials: identity }).fetchBlobRange('app', digest, 0, 10)).length,
    10,
  )
  const wrong = fixedCredential({ kind: 'basic', username: 'u', password: 'guessed' })
  const failure: unknown = await clientOf(t, registry, { credentials: wrong })
    .fetchBlobRange('app', digest, 0, 10)
    .catch((err: unknown) => err)
  t.match(failure, { code: 'REGISTRY_UNAUTHORIZED', message: /docker login/ })
  t.notMatch(JSON.stringify(failure) + String(failure), /guessed|Z3Vlc3NlZA/)
  const anonymous = clientOf(t, registry).fetchBlobRange('app', digest, 0, 10)
  await t.rejects(anonymous, { code: 'REGISTRY_UNAUTHORIZED' })
})

t.test('token servers that answer nonsense', async t => {
  const auth = { username: 'u', password: 'p', method: 'bearer' } as const
  const registry = await startFaultRegistry(t, { auth })
  const credentials = fixedCredential({ kind: 'basic', username: 'u', password: 'p' })
  const client = clientOf(t, registry, { credentials, retryLimit: 0 })
  for (const body of ['<html>', '{}', '{"token":"a\\nb"}', '[]', 'null']) {
    registry.inject({ target: 'token' }, { status: 200, body }, { times: 1 })
    await t.rejects(client.ping(), { code: 'REGISTRY_PROTOCOL' }, body)
  }
  await client.ping()
})

t.test('basic authentication and ready-made tokens', async t => {
  const auth = { username: 'u', password: 'p', method: 'basic' } as const
  const registry = await startFaultRegistry(t, { auth })
  const credentials = fixedCredential({ kind: 'basic', username: 'u', password: 'p' })
  await clientOf(t, registry, { credentials }).ping()
  t.equal(registry.requests('ping').length, 3, 'the probe of the scheme, the challenge, the answer')
  await t.rejects(clientOf(t, registry).ping(), { code: 'REGISTRY_UNAUTHORIZED' })

  const bearer = await startFaultRegistry(t, { auth: { ...auth, method: 'bearer' } })
  const token = Buffer.from('1|').toString('base64url')
  await clientOf(t, bearer, { credentials: fixedCredential({ kind: 'bearer', token }) }).ping()
  t.equal(bearer.requests('token').length, 0)
  bearer.expireTokens()
  const stale = clientOf(t, bearer, { credentials: fixedCredential({ kind: 'bearer', token }) })
  await t.rejects(stale.ping(), { code: 'REGISTRY_UNAUTHORIZED' })
})

t.test('manifests that are none', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry, { retryLimit: 0 })
  registry.addManifest('{"schemaVersion": 2, "config": {', { tag: 'cut' })
  await t.rejects(client.fetchManifest('app', 'cut'), {
    code: 'MANIFEST_INVALID',
    message: new RegExp(`${registry.host}/app:cut .*oci.image.manifest.* is not complete JSON`),
  })
  registry.inject(
    { target: 'manifest' },
    { status: 200, headers: { 'content-type': 'text/html' }, body: '<html>' },
  )
  await t.rejects(client.fetchManifest('app', 'html'), {
    code: 'REGISTRY_PROTOCOL',
    message: new RegExp(`^${registry.host} answered with text/html`),
  })
})

t.test('content that is not what its digest says', async t => {
  const registry = await startFaultRegistry(t)
  const client = clientOf(t, registry)
  const lie = registry.addBlob(Buffer.from('other'), { as: digestOf(Buffer.from('this')) })
  await t.rejects(whole(client.streamBlob('app', { digest: lie })), { code: 'DIGEST_MISMATCH' })
  const digest = registry.addBlob(BLOB)
  await t.rejects(whole(client.streamBlob('app', { digest, size: 5 })), { code: 'DIGEST_MISMATCH' })
  const manifest = registry.addManifest({ schemaVersion: 2 })
  registry.inject({ target: 'manifest' }, { alter: b => Buffer.concat([b, Buffer.from(' ')]) })
  await t.rejects(client.fetchManifest('app', manifest), { code: 'DIGEST_MISMATCH' })
  await t.rejects(client.fetchManifest('app', 'latest'), { code: 'DIGEST_MISMATCH' })
})

t.test('TLS, with an authority of its own and with client certificates', async t => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'registry-tls-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const certificates = makeCertificates(directory)
  const registry = await startFaultRegistry(t, { tls: certificates })
  const digest = registry.addBlob(BLOB)
  const { caFile, clientCertFile, clientKeyFile } = certificates
  const trusting = clientOf(t, registry, { tls: { caFiles: [caFile] } })
  t.equal(
    (await trusting.fetchBlobRange('app', digest, 0, 10)).length,
    10,
    'a loopback host is found to speak TLS',
  )
  const plain = clientOf(t, registry)
  await t.rejects(plain.fetchBlobRange('app', digest, 0, 10), {
    code: 'REGISTRY_TLS',
    message: /ca_cert_files/,
  })
  const careless = clientOf(t, registry, { scheme: 'https', tls: { skipVerify: true } })
  t.equal((await careless.fetchBlobRange('app', digest, 0, 10)).length, 10)
  const strict = await startFaultRegistry(t, { tls: { ...certificates, clientCaFile: caFile } })
  const identity = { certFile: clientCertFile, keyFile: clientKeyFile }
  await clientOf(t, strict, { tls: { caFiles: [caFile], ...identity } }).ping()
  await t.rejects(clientOf(t, strict, { tls: { caFiles: [caFile] }, retryLimit: 0 }).ping(), {
    message: /^https:/,
  })
  const missing = clientOf(t, registry, { scheme: 'https', tls: { caFiles: ['/nonexistent.pem'] } })
  await t.rejects(missing.ping(), { code: 'CONFIG_INVALID', message: /nonexistent/ })

  const clear = await startFaultRegistry(t)
  await t.rejects(clientOf(t, clear, { scheme: 'https' }).ping(), {
    code: 'REGISTRY_PLAIN_HTTP',
    message: /scheme = "http"/,
  })
})

t.test('something that is no HTTP server at all', async t => {
  const server = createServer(socket => socket.on('error', () => {}).end('SSH-2.0-Test\r\n'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const client = new RegistryClient({
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    scheme: 'http',
    retryLimit: 0,
  })
  t.teardown(() => client.close())
  await t.rejects(client.ping(), { code: 'REGISTRY_PROTOCOL', message: /not HTTP/ })
})
