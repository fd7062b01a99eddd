import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { gunzipSync, gzipSync } from 'node:zlib'
import t from 'tap'
import tar from 'tar-stream'
import { compress } from '../../../src/common/codec.js'
import { FileSource, MemorySource } from '../../../src/common/byte-source.js'
import { parseMetaFile } from '../../../src/erofs/blob-meta.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { ANNOTATION } from '../../../src/oci/annotations.js'
import { type Manifest, isNydusManifest, parseImageConfig } from '../../../src/oci/manifest.js'
import { MEDIA_TYPE } from '../../../src/oci/media-types.js'
import { RegistryClient } from '../../../src/oci/registry-client.js'
import {
  type DockerRegistry,
  missingDockerRegistry,
  startDockerRegistry,
} from '../../helpers/docker-registry.js'
import { digestOfBytes, pushImage } from '../../helpers/push-image.js'
import { fixturesDirectory, readExpected } from '../../helpers/rafs-fixtures.js'
import { checkTree } from '../../helpers/rafs-tree.js'
import { scratch } from '../../helpers/scratch.js'
import { type TarItem, tarBytes } from '../../helpers/tar-bytes.js'

const PROGRAM = path.resolve(import.meta.dirname, '../../../src/bin/nydusify.js')

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

async function nydusify(
  args: string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Ended> {
  const child = spawn(process.execPath, [PROGRAM, ...args], {
    ...options,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code: child.exitCode, stdout, stderr }
}

interface Pulled {
  manifest: Manifest
  files: Map<string, Buffer>
  bootstrap: Bootstrap
  config: Record<string, unknown>
  diffIds: readonly string[]
}

async function pull(client: RegistryClient, repository: string, tag: string): Promise<Pulled> {
  const { content } = await client.fetchManifest(repository, tag)
  if (content.kind === 'index') throw new Error('an index')
  const layer = await client.fetchBlob(repository, content.layers.at(-1)!, 1 << 28)
  const files = new Map<string, Buffer>()
  const archive = tar.extract()
  archive.end(gunzipSync(layer))
  for await (const entry of archive) {
    const pieces: Uint8Array[] = []
    for await (const piece of entry as AsyncIterable<Uint8Array>) pieces.push(piece)
    files.set(entry.header.name, Buffer.concat(pieces))
  }
  const bootstrap = Bootstrap.open(new MemorySource(files.get('image/image.boot')!))
  const config = parseImageConfig(await client.fetchBlob(repository, content.config, 1 << 20), tag)
  return { manifest: content, files, bootstrap, config: config.document, diffIds: config.diffIds }
}

t.test('command lines that cannot be are told in a sentence', async t => {
  const cases: [number, RegExp, string[]][] = [
    [2, /required option '--source/, ['convert']],
    [2, /unknown option '--bogus'/, ['convert', '--source', 'a', '--target', 'b', '--bogus']],
    [2, /unknown command 'frob'/, ['frob']],
    [2, /--target REF or --target-suffix/, ['convert', '--source', 'a']],
    [2, /cannot be used with/, ['convert', '--source', 'a', '--target', 'b', '--target-suffix', '-n']],
    [2, /power of two/, ['convert', '--source', 'a', '--target', 'b', '--chunk-size', '5000']],
    [2, /zstd, lz4_block, none/, ['convert', '--source', 'a', '--target', 'b', '--compressor', 'gzip']],
    [2, /UPPER.*REFERENCE_INVALID/, ['convert', '--source', 'a/UPPER:x', '--target', 'b']],
    [2, /linux\/ARCH/, ['convert', '--source', 'a', '--target', 'b', '--platform', 'windows/amd64']],
    [10, /--oci-ref comes with a later release/, ['convert', '--source', 'a', '--target', 'b', '--oci-ref']],
    [
      2,
      /--fs-version 6/,
      ['convert', '--source', 'a', '--target', 'b', '--fs-version', '5', '--batch-size', '4096'],
    ],
    [2, /bootstrap:local:PATH/, ['convert', '--source', 'a', '--target', 'b', '--chunk-dict', 'x']],
    [10, /nydusify commit comes/, ['commit', '--target', 'x', '--whatever']],
    [0, /^$/, ['--version']],
  ]
  for (const [code, stderr, args] of cases) {
    const ended = await nydusify(args)
    t.match(ended, { code, stderr }, args.join(' '))
    t.notMatch(ended.stderr, /\n\s+at /, 'no stack')
  }
  const fromEnvironment = await nydusify(['convert', '--source', 'a', '--target', 'b'], {
    env: { OCI_REF: 'true', MERGE_PLATFORM: 'false' },
  })
  t.match(fromEnvironment, { code: 10, stderr: /--oci-ref/ })
})

t.test('with a registry', { skip: missingDockerRegistry() }, async t => {
  const registry = await startDockerRegistry(t)
  const client = new RegistryClient({ host: registry.host })
  t.teardown(() => client.close())
  const work = scratch(t)
  const ref = (name: string): string => `${registry.host}/${name}`
  const convert = (source: string, target: string, ...more: string[]): Promise<Ended> =>
    nydusify(['convert', '--source', ref(source), '--target', ref(target), ...more], { cwd: work })
  const hello: TarItem[] = [{ name: 'hello', body: Buffer.from('hello world') }]

  await t.test('the torture image comes through whole', async t => {
    const fixtures = fixturesDirectory()
    if (fixtures === undefined)
      return t.pass('no fixtures', { skip: 'fixtures are not part of the source tree' })
    registry.pushLayout(path.join(fixtures, 'oci-layout'), 'oci', 'torture:oci')
    for (const compressor of ['zstd', 'lz4_block', 'none']) {
      const json = path.join(work, 'figures.json')
      const ended = await convert(
        'torture:oci',
        `torture:${compressor}`,
        '--compressor',
        compressor,
        '--output-json',
        json,
      )
      t.match(ended, {
        code: 0,
        stdout: /converted .*torture:oci to .*@sha256:/,
        stderr: /layer 2\/2: [0-9a-f]{12}/,
      })
      const { manifest, bootstrap, files, diffIds } = await pull(client, 'torture', compressor)
      const open = (id: string): FileSource => new FileSource(registry.blobFile(`sha256:${id}`))
      const checked = await checkTree(bootstrap, open, readExpected(fixtures))
      t.same(checked.differences, [])
      t.equal(checked.entries, 1684)
      t.match(manifest.layers, [
        { mediaType: MEDIA_TYPE.nydusBlob, annotations: { [ANNOTATION.nydusBlob]: 'true' } },
        { mediaType: MEDIA_TYPE.nydusBlob },
        { mediaType: MEDIA_TYPE.ociLayerGzip, annotations: { [ANNOTATION.nydusFsVersion]: '6' } },
      ])
      t.ok(isNydusManifest(manifest))
      t.same(
        diffIds.slice(0, 2),
        manifest.layers.slice(0, 2).map(({ digest }) => digest),
      )
      for (const blob of bootstrap.blobs) {
        t.ok(manifest.layers.some(({ digest }) => digest === `sha256:${blob.blobId}`))
        const meta = parseMetaFile(blob, files.get(`image/${blob.blobId}.blob.meta`)!)
        t.equal(meta.chunks.count, blob.chunkCount)
      }
      const figures = JSON.parse(readFileSync(json, 'utf8')) as Record<string, number>
      const size = [...manifest.layers, manifest.config].reduce((sum, { size }) => sum + size, 0)
      t.equal(figures['TargetImageSize'], size)
      t.ok(figures['SourceImageSize']! > 3_000_000 && figures['ConversionElapsed']! > 0)
    }
    const before = registry.accessLog.length
    t.match(await convert('torture:oci', 'torture:again'), { code: 0, stdout: /\(0 B uploaded\)/ })
    t.notOk(registry.accessLog.slice(before).some(({ method }) => method === 'POST' || method === 'PATCH'))
    const [first, again] = await Promise.all(['zstd', 'again'].map(tag => client.resolve('torture', tag)))
    t.equal(first?.digest, again?.digest, 'the same image gives the same bytes')
    t.match(await convert('torture:zstd', 'torture:twice'), { code: 4, stderr: /is a nydus image already/ })
    t.notOk(existsSync(path.join(work, 'tmp')), 'the work directory is gone')
  })

  await t.test('config, history and media types follow the source', async t => {
    const layer = { bytes: gzipSync(tarBytes(hello)) }
    await pushImage(client, 'app', 'docker', [layer], { docker: true })
    t.match(await convert('app:docker', 'app:docker-nydus'), { code: 0 })
    const docker = await pull(client, 'app', 'docker-nydus')
    t.equal(docker.manifest.mediaType, MEDIA_TYPE.dockerManifest)
    t.equal(docker.manifest.config.mediaType, MEDIA_TYPE.dockerConfig)
    t.equal(docker.manifest.layers.at(-1)?.mediaType, MEDIA_TYPE.dockerLayerGzip)
    t.match(docker.config, {
      config: { Cmd: ['/bin/sh'], Env: ['A=b'] },
      history: [
        { created_by: 'layer 0' },
        { created_by: 'Nydus Converter', comment: 'Nydus Bootstrap Layer' },
      ],
    })
    t.match(await convert('app:docker', 'app:oci', '--oci'), { code: 0 })
    t.equal((await pull(client, 'app', 'oci')).manifest.mediaType, MEDIA_TYPE.ociManifest)
    const suffixed = ['convert', '--source', ref('app:docker'), '--target-suffix', '-n']
    t.match(await nydusify(suffixed, { cwd: work }), { code: 0 })
    t.ok(isNydusManifest((await pull(client, 'app', 'docker-n')).manifest))
  })

  await t.test('every compression of a layer, layers without data, the same layer twice', async t => {
    const plain = tarBytes(hello)
    const second = tarBytes([{ name: 'b', body: Buffer.alloc(5000, 'b') }])
    const empty = tarBytes([{ name: 'hello2', type: '1', linkname: 'x' }, { name: 'x' }].reverse())
    const layers = [
      { bytes: plain, mediaType: MEDIA_TYPE.ociLayer },
      { bytes: compress('zstd', second), mediaType: MEDIA_TYPE.ociLayerZstd, diffId: digestOfBytes(second) },
      { bytes: gzipSync(empty) },
      { bytes: gzipSync(plain) },
      { bytes: gzipSync(plain) },
      { bytes: gzipSync(tarBytes([{ name: '.wh.b' }])) },
    ]
    await pushImage(client, 'mixed', 'oci', layers)
    t.match(await convert('mixed:oci', 'mixed:nydus'), { code: 0, stderr: /layer 3\/6: .*no data/ })
    const { manifest, bootstrap, files } = await pull(client, 'mixed', 'nydus')
    t.equal(manifest.layers.length, 7)
    const names = [...bootstrap.walk()].map(entry => Buffer.from(entry.path()).toString())
    t.same(names, ['', 'hello', 'hello2', 'x'])
    t.equal(bootstrap.blobs.length, 1, 'only referenced blobs are in the table')
    t.ok(files.has(`image/${bootstrap.blobs[0]!.blobId}.blob.meta`))
  })

  await t.test('an index gives the image of the platform', async t => {
    const build = (architecture: string): Promise<{ digest: string; size: number; mediaType: string }> =>
      pushImage(client, 'multi', architecture, [{ bytes: gzipSync(tarBytes([{ name: architecture }])) }], {
        architecture,
      })
    const manifests = await Promise.all(
      ['amd64', 'arm64'].map(async architecture => ({
        ...(await build(architecture)),
        annotations: undefined,
        platform: { os: 'linux', architecture },
      })),
    )
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPE.ociIndex, manifests }))
    await client.putManifest('multi', 'index', MEDIA_TYPE.ociIndex, index)
    t.match(await convert('multi:index', 'multi:n', '--platform', 'linux/arm64'), {
      code: 0,
      stderr: /linux\/arm64/,
    })
    const { bootstrap } = await pull(client, 'multi', 'n')
    t.ok(bootstrap.lookup('arm64'))
    t.match(await convert('multi:index', 'multi:s', '--platform', 'linux/s390x'), {
      code: 5,
      stderr: /linux\/arm64/,
    })
    t.match(await convert('multi:index', 'multi:all', '--all-platforms'), { code: 0 })
    t.match(await convert('multi:all', 'multi:again', '--reverse', '--all-platforms'), { code: 0 })
    for (const name of ['amd64', 'arm64']) {
      const pair = ['--source', ref('multi:index'), '--target', ref('multi:again')]
      t.match(await nydusify(['check', ...pair, '--platform', `linux/${name}`], { cwd: work }), { code: 0 })
    }
  })

  await t.test('hostile layers are refused by name, and nothing is published', async t => {
    const bomb = gzipSync(Buffer.alloc(40 << 20))
    const cases: [string, number, RegExp, Uint8Array, string[]][] = [
      [
        'dotdot',
        9,
        /layer 1 .*"\.\.\/etc\/passwd".*TAR_UNSAFE/,
        gzipSync(tarBytes([{ name: '../etc/passwd' }])),
        [],
      ],
      [
        'absolute',
        9,
        /"\/etc\/passwd".*absolute.*TAR_UNSAFE/,
        gzipSync(tarBytes([{ name: '/etc/passwd' }])),
        [],
      ],
      ['link', 9, /TAR_UNSAFE/, gzipSync(tarBytes([{ name: 'l', type: '1', linkname: '../../x' }])), []],
      ['bomb', 9, /more than 1000000 bytes.*IMAGE_TOO_LARGE/, bomb, ['--max-layer-size', '1000000']],
      ['html', 9, /TAR_INVALID/, Buffer.from('<html>'.repeat(200)), []],
      [
        'cut',
        9,
        /TAR_INVALID/,
        gzipSync(tarBytes([{ name: 'f', body: Buffer.alloc(9999) }])).subarray(0, 60),
        [],
      ],
    ]
    for (const [tag, code, stderr, bytes, more] of cases) {
      const good = { bytes: gzipSync(tarBytes(hello)) }
      await pushImage(client, 'evil', tag, [{ bytes, diffId: digestOfBytes(bytes) }, good])
      const ended = await convert(`evil:${tag}`, `evil:${tag}-nydus`, ...more)
      t.match(ended, { code, stderr }, tag)
      t.notMatch(ended.stderr, /\n\s+at /)
      await t.rejects(client.resolve('evil', `${tag}-nydus`), { code: 'REGISTRY_NOT_FOUND' })
    }
    const odd = { bytes: gzipSync(tarBytes(hello)), mediaType: 'application/vnd.example.model' }
    await pushImage(client, 'evil', 'type', [odd])
    t.match(await convert('evil:type', 'evil:x'), { code: 4, stderr: /vnd\.example\.model/ })
    await pushImage(client, 'evil', 'diffids', [{ bytes: gzipSync(tarBytes(hello)) }], {
      config: { rootfs: { type: 'layers', diff_ids: [] } },
    })
    t.match(await convert('evil:diffids', 'evil:x'), { code: 9, stderr: /1 layers, but its config lists 0/ })
    t.match(await convert('evil:none', 'evil:x'), { code: 5 })
    t.notOk(existsSync(path.join(work, 'tmp')), 'no temporary file is left')
  })

  await t.test('an altered layer is noticed', async t => {
    const bytes = gzipSync(tarBytes([{ name: 'f', body: Buffer.alloc(100_000, 'x') }]), { level: 0 })
    await pushImage(client, 'altered', 'oci', [{ bytes }])
    const file = registry.blobFile(digestOfBytes(bytes))
    const stored = readFileSync(file)
    // In a stored block of the body: the archive stays valid but for the checksum of gzip.
    stored.write('Y', 50_000)
    writeFileSync(file, stored)
    t.match(await convert('altered:oci', 'altered:n'), { code: 9, stderr: /TAR_INVALID|DIGEST_MISMATCH/ })
    await t.rejects(client.resolve('altered', 'n'), { code: 'REGISTRY_NOT_FOUND' })
  })

  await t.test('Ctrl-C ends it tidily', async t => {
    const body = Buffer.alloc(24 << 20)
    for (let i = 0; i < body.length; i += 4) body.writeUInt32LE(Math.imul(i, 2654435761) >>> 0, i)
    const layers = Array.from({ length: 4 }, (_, i) => ({
      bytes: gzipSync(tarBytes([{ name: `f${i}`, body: body.subarray(i * 4096) }]), { level: 1 }),
    }))
    await pushImage(client, 'slow', 'oci', layers)
    const tmp = path.join(work, 'kept')
    mkdirSync(tmp)
    const args = ['convert', '--source', ref('slow:oci'), '--target', ref('slow:n'), '--work-dir', tmp]
    const child = spawn(process.execPath, [PROGRAM, ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
    let stderr = ''
    let stopped = false
    child.stderr.setEncoding('utf8').on('data', (piece: string) => {
      stderr += piece
      if (stderr.includes('layer 1/4') && !stopped) stopped = child.kill('SIGINT')
    })
    await once(child, 'close')
    t.equal(child.exitCode, 130, stderr)
    t.match(stderr, /nothing was published/)
    t.same(readdirSync(tmp), [], 'its own directory is gone, the given one stays')
    await t.rejects(client.resolve('slow', 'n'), { code: 'REGISTRY_NOT_FOUND' })
  })
})

t.test(
  'credentials of docker, and registries that are not there',
  { skip: missingDockerRegistry() },
  async t => {
    const registry: DockerRegistry = await startDockerRegistry(t, { users: { me: 'secret' } })
    const host = registry.host
    const dockerConfig = scratch(t)
    const auth = Buffer.from('me:secret').toString('base64')
    writeFileSync(path.join(dockerConfig, 'config.json'), JSON.stringify({ auths: { [host]: { auth } } }))
    const credentials = { find: async () => ({ kind: 'basic', username: 'me', password: 'secret' }) as const }
    const client = new RegistryClient({ host, credentials: { name: 'test', ...credentials } })
    t.teardown(() => client.close())
    await pushImage(client, 'private', 'oci', [
      { bytes: gzipSync(tarBytes([{ name: 'f', body: Buffer.from('x') }])) },
    ])
    const cwd = scratch(t)
    const args = ['convert', '--source', `${host}/private:oci`, '--target', `${host}/private:n`]
    const without = await nydusify(args, { cwd, env: { DOCKER_CONFIG: cwd } })
    t.match(without, { code: 7, stderr: /REGISTRY_UNAUTHORIZED/ })
    const allowed = await nydusify([...args, '--target-insecure'], {
      cwd,
      env: { DOCKER_CONFIG: dockerConfig },
    })
    t.match(allowed, { code: 0 })
    t.notMatch(JSON.stringify([without, allowed]), /secret|bWU6/)
    await registry.stop()
    const down = await nydusify([...args, '--push-retry-count', '0'], {
      cwd,
      env: { DOCKER_CONFIG: dockerConfig },
    })
    t.match(down, { code: 8, stderr: /REGISTRY_UNAVAILABLE/ })
  },
)
