/** Images checked against what they were made from, and made plain again. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { ANNOTATION } from '../../../../src/oci/annotations.js'
import type { Manifest } from '../../../../src/oci/manifest.js'
import { MEDIA_TYPE } from '../../../../src/oci/media-types.js'
import { RegistryClient } from '../../../../src/oci/registry-client.js'
import { missingDockerRegistry, startDockerRegistry } from '../../../helpers/docker-registry.js'
import { type Ended, nydusify } from '../../../helpers/nydusify.js'
import { pushImage } from '../../../helpers/push-image.js'
import { fixturesDirectory } from '../../../helpers/rafs-fixtures.js'
import { scratch } from '../../../helpers/scratch.js'
import { checkTree } from '../../../helpers/supervised.js'
import { type TarItem, tarBytes } from '../../../helpers/tar-bytes.js'

const fixtures = fixturesDirectory()
const layout = path.join(fixtures ?? '', 'oci-layout')
const archived = (side: string, tag: string, archive: string): string[] => [
  `--${side}`,
  `example.org/app:${tag}`,
  `--${side}-archive`,
  archive,
]

t.test('images of the reference tools', { skip: fixtures === undefined && 'no fixtures' }, async t => {
  const cwd = scratch(t)
  const source = archived('source', 'oci', layout)
  for (const tag of ['nydus', 'lz4', 'v5']) {
    const ended = await nydusify(['check', ...archived('target', tag, layout), ...source], { cwd })
    t.match(ended, { code: 0, stdout: /1684 names and 1582 files are the same\nverified image/ }, tag)
  }
  const output = (name: string): Buffer => readFileSync(path.join(cwd, 'output', name))
  t.match(JSON.parse(String(output('target/nydus_manifest.json'))), { schemaVersion: 2 })
  t.match(JSON.parse(String(output('source/oci_config.json'))), { os: 'linux' })
  t.ok(output('target/nydus_bootstrap/image/image.boot').length > 100_000)
  t.match(await nydusify(['check', ...archived('target', 'zran', layout)], { cwd }), { code: 0 })
  const zran = await nydusify(['check', ...archived('target', 'zran', layout), ...source], { cwd })
  t.match(zran, { code: 10, stderr: /zran/ }, 'data of plain layers is not read yet')
})

t.test('there and back again', { skip: fixtures === undefined && 'no fixtures' }, async t => {
  const cwd = scratch(t)
  const source = archived('source', 'oci', layout)
  const nydus = (side: string): string[] => archived(side, 'nydus', path.join(cwd, 'nydus.tar'))
  const plain = (side: string): string[] => archived(side, 'plain', path.join(cwd, 'plain/'))
  t.match(await nydusify(['convert', ...source, ...nydus('target')], { cwd }), { code: 0 })
  t.match(await nydusify(['check', ...nydus('target'), ...source], { cwd }), { code: 0 })
  const reversed = await nydusify(['convert', '--reverse', ...nydus('source'), ...plain('target')], { cwd })
  t.match(reversed, { code: 0, stdout: /converted .*nydus\.tar to .*plain/ })
  t.match(await nydusify(['check', ...plain('target'), ...source], { cwd }), { code: 0 })
  const index = JSON.parse(readFileSync(path.join(cwd, 'plain/index.json'), 'utf8')) as {
    manifests: { digest: string }[]
  }
  const blob = (digest: string): string => path.join(cwd, 'plain/blobs/sha256', digest.slice(7))
  const manifest = JSON.parse(readFileSync(blob(index.manifests[0]!.digest), 'utf8')) as Manifest
  t.equal(manifest.layers.length, 1)
  const tree = path.join(cwd, 'tree')
  mkdirSync(tree)
  const tarOptions = ['--xattrs', '--xattrs-include=*', '--numeric-owner', '-p']
  execFileSync('tar', [...tarOptions, '-C', tree, '-xzf', blob(manifest.layers[0]!.digest)], {
    stdio: 'pipe',
  })
  t.equal(await checkTree(fixtures!, tree), '1684 entries, 0 differences', 'as GNU tar unpacks it')
  const again = await nydusify(['convert', '--reverse', ...plain('source'), ...nydus('target')], { cwd })
  t.match(again, { code: 4, stderr: /is no nydus image/ })
})

t.test('what is wrong is told', { skip: missingDockerRegistry() }, async t => {
  const registry = await startDockerRegistry(t)
  const client = new RegistryClient({ host: registry.host })
  t.teardown(() => client.close())
  const cwd = scratch(t)
  const ref = (name: string): string => `${registry.host}/app:${name}`
  const run = (...args: string[]): Promise<Ended> => nydusify(args, { cwd })
  const items = (more: Partial<TarItem>[]): { bytes: Buffer } => ({
    bytes: gzipSync(
      tarBytes([
        { name: 'bin/', type: '5', mode: 0o755 },
        ...['same', 'content', 'mode', 'owner', 'gone'].map((name, i) => ({
          name: `bin/${name}`,
          body: Buffer.from(name),
          ...more[i],
        })),
        { name: 'link', type: '2', linkname: 'bin/same' },
        { name: 'twin', type: '1', linkname: 'bin/same' },
      ] as TarItem[]),
    ),
  })
  await pushImage(client, 'app', 'one', [items([])])
  const changed = items([{}, { body: Buffer.from('CONTENT') }, { mode: 0o600 }, { uid: 7 }, { name: 'more' }])
  await pushImage(client, 'app', 'two', [changed], { config: { config: { Cmd: ['/other'] } } })
  for (const tag of ['one', 'two']) {
    const args = ['--source', ref(tag), '--target', ref(`${tag}-n`)]
    t.match(await run('convert', ...args), { code: 0 })
    t.match(await run('check', ...args), { code: 0 })
  }
  const differing = await run('check', '--source', ref('one'), '--target', ref('two-n'))
  t.match(differing, { code: 9, stderr: /differs from .* in 6 things.*IMAGE_DIFFERS/ })
  for (const line of [
    'config: the images run differently',
    '/bin/content has another content',
    '/bin/gone is missing in the target',
    '/bin/mode has mode 600 instead of',
    '/bin/owner has owner 7 instead of 0',
    '/more is in the target only',
  ])
    t.ok(differing.stderr.includes(line), line)

  const { content } = await client.fetchManifest('app', 'one-n')
  const manifest = content as Manifest
  const put = async (tag: string, altered: Partial<Manifest>): Promise<void> => {
    const document = { schemaVersion: 2, ...manifest, ...altered }
    await client.putManifest('app', tag, MEDIA_TYPE.ociManifest, Buffer.from(JSON.stringify(document)))
  }
  const [data, bootstrap] = manifest.layers as [Manifest['layers'][0], Manifest['layers'][0]]
  await put('no-mark', { layers: [{ ...data, annotations: {} }, bootstrap] })
  t.match(await run('check', '--target', ref('no-mark')), {
    code: 9,
    stderr: /layer 1 .*no nydus data layer/,
  })
  const version = {
    ...bootstrap,
    annotations: { ...bootstrap.annotations, [ANNOTATION.nydusFsVersion]: '5' },
  }
  await put('version', { layers: [data, version] })
  t.match(await run('check', '--target', ref('version')), { code: 9, stderr: /claims RAFS v5/ })
  await put('few', { layers: [bootstrap] })
  t.match(await run('check', '--target', ref('few')), { code: 9, stderr: /config lists 2/ })
  const other = (await client.fetchManifest('app', 'two-n')).content as Manifest
  await put('other', { layers: [other.layers[0]!, bootstrap] })
  t.match(await run('check', '--target', ref('other')), { code: 9, stderr: /which is no layer/ })
  t.match(await run('check', '--target', ref('none')), { code: 5 })
  t.match(await run('check', '--target', ref('one-n'), '--source-archive', 'x'), { code: 2 })
  // One byte of the data, where no manifest looks.
  const file = registry.blobFile(data.digest)
  execFileSync('dd', [`of=${file}`, 'bs=1', 'seek=3', 'conv=notrunc'], { input: 'X', stdio: 'pipe' })
  const damaged = await run('check', '--source', ref('one'), '--target', ref('one-n'))
  t.match(damaged, { code: 9, stderr: /CHUNK_/ })
})
