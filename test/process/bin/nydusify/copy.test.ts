/** Images of any kind carried between registries and archives. */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import type { Index } from '../../../../src/oci/manifest.js'
import { MEDIA_TYPE } from '../../../../src/oci/media-types.js'
import { RegistryClient } from '../../../../src/oci/registry-client.js'
import { missingDockerRegistry, startDockerRegistry } from '../../../helpers/docker-registry.js'
import { type Ended, nydusify } from '../../../helpers/nydusify.js'
import { pushImage } from '../../../helpers/push-image.js'
import { scratch } from '../../../helpers/scratch.js'
import { tarBytes } from '../../../helpers/tar-bytes.js'

t.test('between registries and archives', { skip: missingDockerRegistry() }, async t => {
  const [here, there] = [await startDockerRegistry(t), await startDockerRegistry(t)]
  const [client, other] = [here, there].map(({ host }) => new RegistryClient({ host }))
  t.teardown(() => Promise.all([client!.close(), other!.close()]))
  const cwd = scratch(t)
  const run = (...args: string[]): Promise<Ended> => nydusify(args, { cwd })
  const manifests = []
  for (const architecture of ['amd64', 'arm64', 's390x']) {
    const layers = [
      { bytes: gzipSync(tarBytes([{ name: architecture, body: Buffer.alloc(100_000, architecture) }])) },
    ]
    const pushed = await pushImage(client!, 'app', architecture, layers, { architecture })
    manifests.push({ ...pushed, platform: { os: 'linux', architecture } })
  }
  const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPE.ociIndex, manifests }))
  const { digest } = await client!.putManifest('app', 'all', MEDIA_TYPE.ociIndex, index)
  const source = `${here.host}/app:all`

  t.match(await run('save', '--source', source, '-o', 'all.tar'), { code: 0, stdout: new RegExp(digest) })
  t.match(await run('load', '-i', 'all.tar', '--target', `${there.host}/app:loaded`), { code: 0 })
  t.equal((await other!.resolve('app', 'loaded')).digest, digest, 'the index is the same to the byte')
  if (existsSync('/usr/bin/skopeo')) {
    const archive = `oci-archive:${path.join(cwd, 'all.tar')}:all`
    t.match(JSON.parse(execFileSync('skopeo', ['inspect', '--raw', archive], { encoding: 'utf8' })), {
      manifests: { length: 3 },
    })
  }

  const some = ['--platform', 'linux/arm64,linux/s390x']
  t.match(await run('copy', '--source', source, '--target', `${there.host}/app:some`, ...some), { code: 0 })
  const { content } = await other!.fetchManifest('app', 'some')
  t.same(
    (content as Index).manifests.map(({ platform }) => platform?.architecture),
    ['arm64', 's390x'],
  )
  const one = ['--platform', 'linux/arm64', '--target', `${here.host}/mounted:one`]
  const before = here.accessLog.length
  t.match(await run('copy', '--source', source, ...one), { code: 0, stdout: /\(0 B moved\)/ })
  t.equal((await client!.resolve('mounted', 'one')).digest, manifests[1]?.digest)
  t.ok(here.accessLog.slice(before).some(({ path, status }) => path.includes('mount=') && status === 201))
  const chunked = [
    '--platform',
    'linux/amd64',
    '--push-chunk-size',
    '1k',
    '--target',
    `${there.host}/pieces:x`,
  ]
  const uploads = there.accessLog.length
  t.match(await run('copy', '--source', 'file://all.tar', ...chunked), { code: 0 })
  t.ok(there.accessLog.slice(uploads).filter(({ method }) => method === 'PATCH').length >= 2)

  t.match(await run('copy', '--source', source, '--target', 'file://out/', '--platform', 'linux/ppc64le'), {
    code: 5,
    stderr: /linux\/s390x/,
  })
  t.match(await run('copy', '--source', 'file://none.tar', '--target', 'file://x.tar'), { code: 5 })
  t.match(await run('copy', '--source', source, '--target', `${here.host}/app@${digest}`), { code: 2 })
  t.same(
    readdirSync(cwd).filter(name => name.endsWith('.tar') || name.includes('partial')),
    ['all.tar'],
    'a copy that failed leaves no archive',
  )
})
