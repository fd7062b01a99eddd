import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Test } from 'tap'
import { fixedCredential } from '../../../src/oci/credentials.js'
import { isNydusManifest, type Manifest, parseImageConfig } from '../../../src/oci/manifest.js'
import { MEDIA_TYPE } from '../../../src/oci/media-types.js'
import { RegistryClient, type RegistryClientOptions } from '../../../src/oci/registry-client.js'
import { makeCertificates } from '../../helpers/certificates.js'
import {
  type DockerRegistry,
  missingDockerRegistry,
  startDockerRegistry,
} from '../../helpers/docker-registry.js'

const skip = missingDockerRegistry()
const BLOB = randomBytes(5_000_000)
const DIGEST = `sha256:${createHash('sha256').update(BLOB).digest('hex')}`

function clientOf(
  t: Test,
  registry: DockerRegistry,
  options: Partial<RegistryClientOptions> = {},
): RegistryClient {
  const client = new RegistryClient({ host: registry.host, ...options })
  t.teardown(() => client.close())
  return client
}

function* inPieces(bytes: Uint8Array, size: number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

t.test('an image goes up and comes down', { skip }, async t => {
  const registry = await startDockerRegistry(t)
  const client = clientOf(t, registry, { uploadPieceBytes: 1 << 20 })
  await client.ping()
  t.notOk(await client.hasBlob('app', DIGEST))
  const layer = await client.uploadBlob('app', inPieces(BLOB, 70_001))
  t.same(layer, { digest: DIGEST, size: BLOB.length }, 'of unknown size, in pieces')
  t.ok(await client.hasBlob('app', DIGEST))
  const patches = registry.accessLog.filter(line => line.method === 'PATCH')
  t.equal(patches.length, 5)

  const config = Buffer.from('{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]}}')
  const uploaded = await client.uploadBlob('app', [config])
  t.ok(await client.mountBlob('other/place', DIGEST, 'app'))
  t.ok(await client.hasBlob('other/place', DIGEST))
  t.notOk(await client.mountBlob('other/place', `sha256:${'0'.repeat(64)}`, 'app'))
  const empty = await client.uploadBlob('app', [])
  t.equal(empty.size, 0)

  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPE.ociManifest,
      config: { mediaType: MEDIA_TYPE.ociConfig, ...uploaded },
      layers: [{ mediaType: MEDIA_TYPE.nydusBlob, ...layer }],
    }),
  )
  const put = await client.putManifest('app', 'v1', MEDIA_TYPE.ociManifest, manifest)
  t.equal((await client.resolve('app', 'v1')).digest, put.digest)
  const fetched = await client.fetchManifest('app', 'v1')
  t.same(fetched.descriptor, put)
  t.equal((fetched.content as Manifest).layers[0]?.digest, DIGEST)
  t.ok(Buffer.from(await client.fetchBlob('app', uploaded, 1000)).equals(config))
  t.equal(await client.fetchBlobSize('app', DIGEST), BLOB.length)
  for (const [offset, length] of [
    [0, 1],
    [4096, 100_000],
    [BLOB.length - 1, 1],
    [0, BLOB.length],
  ] as const) {
    const range = await client.fetchBlobRange('app', DIGEST, offset, length)
    t.ok(Buffer.from(range).equals(BLOB.subarray(offset, offset + length)), `${offset}+${length}`)
  }
  t.ok(Buffer.from(await client.fetchBlob('app', layer, BLOB.length)).equals(BLOB))
  t.equal((await client.fetchBlob('app', empty, 0)).length, 0, 'an empty blob')
  await t.rejects(client.fetchBlobRange('app', DIGEST, BLOB.length, 1), { code: 'REGISTRY_PROTOCOL' })
  await t.rejects(client.fetchManifest('app', 'v2'), {
    code: 'REGISTRY_NOT_FOUND',
    message: /MANIFEST_UNKNOWN/,
  })
  const absent = { digest: `sha256:${'1'.repeat(64)}`, mediaType: MEDIA_TYPE.nydusBlob, size: 5 }
  const dangling = JSON.stringify({ ...JSON.parse(manifest.toString()), layers: [absent] })
  await t.rejects(client.putManifest('app', 'v3', MEDIA_TYPE.ociManifest, Buffer.from(dangling)), {
    code: 'REGISTRY_PROTOCOL',
    message: /MANIFEST_BLOB_UNKNOWN/,
  })
  const expected = { digest: `sha256:${'1'.repeat(64)}` }
  await t.rejects(client.uploadBlob('app', [Buffer.from('x')], { expected }), { code: 'DIGEST_MISMATCH' })
})

t.test('the registry goes away and comes back', { skip }, async t => {
  const registry = await startDockerRegistry(t)
  const client = clientOf(t, registry, { retryLimit: 0, uploadPieceBytes: 1 << 20 })
  await client.uploadBlob('app', [BLOB])
  await registry.stop()
  await t.rejects(client.fetchBlobRange('app', DIGEST, 0, 10), {
    code: 'REGISTRY_UNAVAILABLE',
    retryable: true,
  })
  await registry.start()
  t.equal((await client.fetchBlobRange('app', DIGEST, 0, 10)).length, 10)
  writeFileSync(registry.blobFile(DIGEST), Buffer.alloc(BLOB.length))
  await t.rejects(client.fetchBlob('app', { digest: DIGEST }, BLOB.length), { code: 'DIGEST_MISMATCH' })
})

t.test('TLS with an authority of its own, and users', { skip }, async t => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'registry-tls-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const tls = makeCertificates(directory)
  const registry = await startDockerRegistry(t, { tls, users: { mia: 'pass:word' } })
  const trust = { tls: { caFiles: [tls.caFile] }, retryLimit: 0 }
  await t.rejects(clientOf(t, registry, { retryLimit: 0 }).ping(), { code: 'REGISTRY_TLS' })
  await t.rejects(clientOf(t, registry, trust).ping(), { code: 'REGISTRY_UNAUTHORIZED' })
  const wrong = fixedCredential({ kind: 'basic', username: 'mia', password: 'no' })
  await t.rejects(clientOf(t, registry, { ...trust, credentials: wrong }).ping(), {
    code: 'REGISTRY_UNAUTHORIZED',
  })
  const credentials = fixedCredential({ kind: 'basic', username: 'mia', password: 'pass:word' })
  const client = clientOf(t, registry, { ...trust, credentials })
  await client.uploadBlob('app', [BLOB])
  t.equal((await client.fetchBlobRange('app', DIGEST, 3, 10)).length, 10)
})

const layout = fileURLToPath(new URL('../../../../../shared/fixtures/oci-layout', import.meta.url))
const skipLayout = skip || (existsSync(layout) ? false : 'no fixture images beside the project')

t.test('a nydus image made by another tool', { skip: skipLayout }, async t => {
  const registry = await startDockerRegistry(t)
  registry.pushLayout(layout, 'nydus', 'torture:nydus')
  registry.pushLayout(layout, 'oci', 'torture:oci')
  const client = clientOf(t, registry)
  const { content } = await client.fetchManifest('torture', 'nydus')
  const manifest = content as Manifest
  t.ok(isNydusManifest(manifest))
  const layers = manifest.layers.map(layer => layer.mediaType)
  t.equal(layers[0], MEDIA_TYPE.nydusBlob)
  for (const layer of manifest.layers)
    t.equal((await client.fetchBlob('torture', layer, layer.size)).length, layer.size)
  const config = parseImageConfig(
    await client.fetchBlob('torture', manifest.config, 1 << 20),
    'torture:nydus',
  )
  t.equal(config.diffIds.length, manifest.layers.length)
  t.notOk(isNydusManifest((await client.fetchManifest('torture', 'oci')).content as Manifest))
})
