/** Conversions between stores: platforms, indexes, archives, the build cache, and those that are interrupted. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { fault } from '../../../src/common/fault.js'
import { BlobPool } from '../../../src/erofs/blob-pool.js'
import type { LayerOptions } from '../../../src/image/build/build-layer.js'
import { BuildCache } from '../../../src/image/convert/build-cache.js'
import {
  type ConvertObserver,
  type ConvertRequest,
  type ConvertResult,
  convertImage,
} from '../../../src/image/convert/convert.js'
import type { LayerOrigin } from '../../../src/image/convert/layer-converter.js'
import { openRegistryStore, openSource, openTarget } from '../../../src/image/convert/open-store.js'
import { DEFAULT_LIMITS } from '../../../src/image/tar/limits.js'
import type { Index, Manifest } from '../../../src/oci/manifest.js'
import { isNydusManifest } from '../../../src/oci/manifest.js'
import { MEDIA_TYPE } from '../../../src/oci/media-types.js'
import { hostPlatform, isNydusEntry } from '../../../src/oci/platform.js'
import { parseReference } from '../../../src/oci/reference.js'
import { RegistryClient } from '../../../src/oci/registry-client.js'
import { missingDockerRegistry, startDockerRegistry } from '../../helpers/docker-registry.js'
import { pushImage } from '../../helpers/push-image.js'
import { startFaultRegistry } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'
import { tarBytes } from '../../helpers/tar-bytes.js'

const LAYER: LayerOptions = {
  chunkSize: 0x100000,
  compressor: 'zstd',
  digester: 'blake3',
  version: 6,
  batchSize: 0,
  limits: DEFAULT_LIMITS,
}
const skip = missingDockerRegistry()

/** Collects where each layer came from. */
class Heard implements ConvertObserver {
  origins: LayerOrigin[] = []
  keptIn: string | undefined
  resolved(): void {}
  layerRead(): void {}
  layerDone(_index: number, _layer: unknown, origin: LayerOrigin): void {
    this.origins.push(origin)
  }
  kept(directory: string): void {
    this.keptIn = directory
  }
}

interface Run {
  host: string
  work: string
  from: string
  to: string
  heard?: Heard
  sourceArchive?: string
  targetArchive?: string
  cache?: string
  signal?: AbortSignal
  options?: Partial<ConvertRequest>
}

async function convert({ host, work, heard = new Heard(), ...run }: Run): Promise<ConvertResult> {
  const reference = (name: string) => parseReference(`${host}/${name}`)
  const access = { insecure: false, plainHttp: false, retryLimit: 0 }
  const source = await openSource({ ...access, reference: reference(run.from), archive: run.sourceArchive })
  const target = await openTarget({ ...access, reference: reference(run.to), archive: run.targetArchive })
  const signal = run.signal ?? new AbortController().signal
  const closing = [source, target]
  const pool = new BlobPool()
  try {
    let cache: BuildCache | undefined
    if (run.cache !== undefined) {
      const store = await openRegistryStore({ ...access, reference: reference(run.cache) })
      const into = await openRegistryStore({ ...access, reference: reference(run.to) })
      closing.push(store, into)
      const options = {
        store,
        target: into,
        version: 'v1',
        maxRecords: 3,
        layer: LAYER,
        dictionary: undefined,
        pool,
      }
      cache = await BuildCache.open(options, signal)
    }
    return await convertImage({
      source,
      target,
      platforms: [hostPlatform()],
      mergePlatform: false,
      withReferrer: false,
      layer: LAYER,
      ...(cache ? { cache } : {}),
      pool,
      oci: false,
      prefetch: [],
      workDirectory: work,
      builder: 'test',
      signal,
      observer: heard,
      ...run.options,
    })
  } finally {
    for (const store of closing) await store.close()
  }
}

const layerOf = (name: string, body = Buffer.from(name)): { bytes: Buffer } => ({
  bytes: gzipSync(tarBytes([{ name, body }])),
})

t.test('an index of platforms', { skip }, async t => {
  const registry = await startDockerRegistry(t)
  const client = new RegistryClient({ host: registry.host })
  t.teardown(() => client.close())
  const work = path.join(scratch(t), 'work')
  const run = { host: registry.host, work }
  const common = layerOf('common', randomBytes(100_000))
  const pushIndex = async (repository: string, docker: boolean): Promise<void> => {
    const manifests = []
    for (const architecture of ['amd64', 'arm64', 's390x']) {
      const layers = [common, layerOf(architecture)]
      const pushed = await pushImage(client, repository, architecture, layers, { architecture, docker })
      const variant = architecture === 'arm64' ? { variant: 'v8' } : {}
      manifests.push({ ...pushed, platform: { os: 'linux', architecture, ...variant } })
    }
    manifests.push({ ...manifests[0], platform: { os: 'unknown', architecture: 'unknown' } })
    const mediaType = docker ? MEDIA_TYPE.dockerList : MEDIA_TYPE.ociIndex
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests }))
    await client.putManifest(repository, 'index', mediaType, index)
  }
  await pushIndex('multi', false)
  await pushIndex('docker', true)
  const fetchIndex = async (repository: string, tag: string): Promise<Index> =>
    (await client.fetchManifest(repository, tag)).content as Index
  const fetchManifest = async (repository: string, digest: string): Promise<Manifest> =>
    (await client.fetchManifest(repository, digest)).content as Manifest

  await t.test('all of them, each layer once', async t => {
    const heard = new Heard()
    const before = registry.accessLog.length
    const result = await convert({
      ...run,
      from: 'multi:index',
      to: 'nydus:all',
      heard,
      options: { platforms: 'all' },
    })
    t.same(heard.origins, ['built', 'built', 'same', 'built', 'same', 'built'])
    const index = await fetchIndex('nydus', 'all')
    t.equal(index.mediaType, MEDIA_TYPE.ociIndex)
    t.match(
      index.manifests.map(({ platform }) => platform),
      [{ architecture: 'amd64' }, { architecture: 'arm64', variant: 'v8' }, { architecture: 's390x' }],
    )
    t.notOk(index.manifests.some(isNydusEntry), 'there is no plain twin to tell it from')
    const images = await Promise.all(index.manifests.map(entry => fetchManifest('nydus', entry.digest)))
    t.ok(images.every(isNydusManifest))
    t.equal(new Set(images.map(image => image.layers[0]?.digest)).size, 1)
    const log = registry.accessLog.slice(before)
    t.equal(
      log.filter(({ method }) => method === 'POST').length,
      4 + 2 * 3,
      'a data blob each, and what is small',
    )
    t.equal((await client.resolve('nydus', 'all')).digest, result.digest)
    t.notOk(existsSync(work), 'the work directory is gone')
  })

  await t.test('some of them', async t => {
    const platforms = ['s390x', 'amd64'].map(architecture => ({ os: 'linux', architecture }))
    await convert({ ...run, from: 'multi:index', to: 'nydus:some', options: { platforms } })
    const { manifests } = await fetchIndex('nydus', 'some')
    t.same(
      manifests.map(({ platform }) => platform?.architecture),
      ['s390x', 'amd64'],
    )
    await convert({
      ...run,
      from: 'multi:index',
      to: 'nydus:one',
      options: { platforms: platforms.slice(0, 1) },
    })
    t.equal((await client.fetchManifest('nydus', 'one')).content.kind, 'manifest')
  })

  await t.test('merged with the plain images, whose blobs are mounted', async t => {
    const before = registry.accessLog.length
    const options = { platforms: 'all', mergePlatform: true } as const
    await convert({ ...run, from: 'multi:index', to: 'merged:all', options })
    const index = await fetchIndex('merged', 'all')
    t.equal(index.manifests.length, 6)
    t.same(index.manifests.map(isNydusEntry), [false, false, false, true, true, true])
    for (const entry of index.manifests) {
      const image = await fetchManifest('merged', entry.digest)
      t.equal(isNydusManifest(image), isNydusEntry(entry))
      for (const blob of [...image.layers, image.config]) t.ok(await client.hasBlob('merged', blob.digest))
    }
    t.same(index.manifests[3]?.platform, {
      os: 'linux',
      architecture: 'amd64',
      osFeatures: ['nydus.remoteimage.v1'],
    })
    const mounts = registry.accessLog.slice(before).filter(({ path }) => path.includes('mount='))
    t.equal(mounts.length, 4 + 3)
    t.ok(mounts.every(({ status }) => status === 201))
    if (!existsSync('/usr/bin/skopeo')) return
    const raw = execFileSync(
      'skopeo',
      ['inspect', '--raw', '--tls-verify=false', `docker://${registry.host}/merged:all`],
      { encoding: 'utf8' },
    )
    t.match(JSON.parse(raw), { manifests: [{}, {}, {}, { artifactType: MEDIA_TYPE.nydusManifest }] })
  })

  await t.test("docker's lists and manifests", async t => {
    const options = { platforms: 'all', mergePlatform: true } as const
    await convert({ ...run, from: 'docker:index', to: 'docker:merged', options })
    const index = await fetchIndex('docker', 'merged')
    t.equal(index.mediaType, MEDIA_TYPE.dockerList)
    t.ok(index.manifests.every(({ mediaType }) => mediaType === MEDIA_TYPE.dockerManifest))
    await convert({
      ...run,
      from: 'docker:index',
      to: 'docker:oci',
      options: { platforms: 'all', oci: true },
    })
    const oci = await fetchIndex('docker', 'oci')
    t.equal(oci.mediaType, MEDIA_TYPE.ociIndex)
    t.ok(oci.manifests.every(({ mediaType }) => mediaType === MEDIA_TYPE.ociManifest))
  })

  await t.test('the source as subject', async t => {
    await convert({ ...run, from: 'multi:amd64', to: 'multi:referrer', options: { withReferrer: true } })
    const { content } = await client.fetchManifest('multi', 'referrer')
    const { digest, size } = await client.resolve('multi', 'amd64')
    t.match(content, { subject: { digest, size, mediaType: MEDIA_TYPE.ociManifest } })
  })

  await t.test('from archives into archives', async t => {
    const directory = scratch(t)
    const archive = path.join(directory, 'plain.tar')
    const nydus = path.join(directory, 'nydus.tar')
    if (!existsSync('/usr/bin/skopeo')) return t.pass('no skopeo', { skip: 'skopeo is not installed' })
    const skopeo = (...args: string[]): string =>
      execFileSync('skopeo', ['--insecure-policy', ...args], { encoding: 'utf8', stdio: 'pipe' })
    const source = `docker://${registry.host}/multi:index`
    skopeo('copy', '--quiet', '--src-tls-verify=false', '--all', source, `oci-archive:${archive}:index`)
    const archives = { sourceArchive: archive, targetArchive: nydus }
    const options = { platforms: 'all' } as const
    const { digest } = await convert({ ...run, ...archives, from: 'multi:index', to: 'nydus:all', options })
    const raw = skopeo('inspect', '--raw', `oci-archive:${nydus}:all`)
    t.equal((JSON.parse(raw) as Index).manifests.length, 3)
    t.same(readdirSync(directory).sort(), ['nydus.tar', 'plain.tar'])
    const again = { sourceArchive: archive, targetArchive: path.join(directory, 'layout/') }
    t.equal(
      (await convert({ ...run, ...again, from: 'multi:index', to: 'nydus:all', options })).digest,
      digest,
      'the same bytes whatever the store',
    )
  })
})

t.test('the build cache', { skip }, async t => {
  const registry = await startDockerRegistry(t)
  const client = new RegistryClient({ host: registry.host })
  t.teardown(() => client.close())
  const run = { host: registry.host, work: scratch(t) }
  const [base, one, two] = ['base', 'one', 'two'].map(name => layerOf(name, randomBytes(50_000)))
  const deep = { bytes: gzipSync(tarBytes([{ name: 'a/b/c' }])) }
  await pushImage(client, 'app', 'one', [base!, deep, one!])
  await pushImage(client, 'app', 'two', [base!, deep, two!])
  const origins = async (from: string, to: string): Promise<LayerOrigin[]> => {
    const heard = new Heard()
    await convert({ ...run, from, to, heard, cache: 'cache:v' })
    return heard.origins
  }
  t.same(await origins('app:one', 'first:n'), ['built', 'built', 'built'])
  t.same(await origins('app:two', 'second:n'), ['cached', 'cached', 'built'], 'into another repository')
  const { content } = await client.fetchManifest('cache', 'v')
  t.match(content.annotations, { 'containerd.io/snapshot/nydus-cache': 'v1' })
  t.equal((content as Manifest).layers.length, 2 * 3, 'no more than the most records')
  t.same(await origins('app:one', 'third:n'), ['cached', 'cached', 'built'], 'the oldest went')
  const plain = await convert({ ...run, from: 'app:one', to: 'fourth:n' })
  t.equal((await client.resolve('third', 'n')).digest, plain.digest, 'equal to what is built without')
  const layer = (content as Manifest).layers[1]!
  execFileSync('rm', [registry.blobFile(layer.digest)])
  t.same(
    (await origins('app:two', 'fifth:n')).slice(0, 2),
    ['built', 'cached'],
    'what is lost is built again',
  )
})

t.test('a conversion that failed goes on', async t => {
  const registry = await startFaultRegistry(t)
  const client = new RegistryClient({ host: registry.host })
  t.teardown(() => client.close())
  const work = scratch(t)
  const layers = ['one', 'two', 'three'].map(name => layerOf(name, randomBytes(300_000)))
  const { digest } = await pushImage(client, 'app', 'oci', layers)
  const run = { host: registry.host, work, from: `app@${digest}`, to: 'app:nydus' }

  for (const [status, code, remedy] of [
    [401, 'REGISTRY_UNAUTHORIZED', /docker login/],
    [403, 'REGISTRY_UNAUTHORIZED', /right to push/],
    [413, 'REGISTRY_PROTOCOL', /client_max_body_size.*--push-chunk-size/],
    [500, 'REGISTRY_UNAVAILABLE', /log, then push again/],
  ] as const) {
    const refused = registry.inject({ target: 'upload', method: 'PATCH' }, { status }, { skip: 1 })
    const heard = new Heard()
    await t.rejects(
      convert({ ...run, to: `app-${status}:n`, heard }),
      { code, message: remedy },
      String(status),
    )
    refused.remove()
    t.ok(readdirSync(work).includes(path.basename(heard.keptIn ?? 'nothing')), 'what is done is kept')
  }
  const uploads = registry.requests('upload', 'PATCH').length
  const heard = new Heard()
  const kept = readdirSync(work).length
  const result = await convert({ ...run, to: 'app-500:n', heard })
  t.same(heard.origins, ['resumed', 'resumed', 'resumed'])
  // The third layer, the bootstrap and the config: of the second the registry has all bytes though it answered 500.
  t.equal(registry.requests('upload', 'PATCH').length - uploads, 3, 'nothing is sent again')
  t.equal(readdirSync(work).length, kept - 1)
  const fresh = await convert({ ...run, to: 'other:nydus' })
  t.equal(fresh.digest, result.digest, 'equal to what is converted in one go')

  await t.test('cancelled: nothing is kept', async t => {
    const stop = new AbortController()
    const hold = registry.hold({ target: 'upload', method: 'PATCH' })
    const converting = convert({ ...run, to: 'third:nydus', signal: stop.signal })
    await hold.arrived
    stop.abort(fault('CANCELLED', 'stopped'))
    await t.rejects(converting, { code: 'CANCELLED' })
    hold.release()
    t.equal(readdirSync(work).length, kept - 1)
  })
})
