/** Conversions with every form of image, those that are killed, and images of many layers. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import type { Manifest } from '../../../../src/oci/manifest.js'
import { RegistryClient } from '../../../../src/oci/registry-client.js'
import { missingDockerRegistry, startDockerRegistry } from '../../../helpers/docker-registry.js'
import { type Ended, nydusify, spawnNydusify } from '../../../helpers/nydusify.js'
import { pushImage } from '../../../helpers/push-image.js'
import { fixturesDirectory, readExpected } from '../../../helpers/rafs-fixtures.js'
import { scratch } from '../../../helpers/scratch.js'
import { tarBytes } from '../../../helpers/tar-bytes.js'

const fixtures = fixturesDirectory()

t.test('forms of images', { skip: missingDockerRegistry() }, async t => {
  const registry = await startDockerRegistry(t)
  const client = new RegistryClient({ host: registry.host })
  t.teardown(() => client.close())
  const cwd = scratch(t)
  const ref = (name: string): string => `${registry.host}/${name}`
  const run = (...args: string[]): Promise<Ended> => nydusify(args, { cwd })
  const fetch = async (repository: string, tag: string): Promise<Manifest> =>
    (await client.fetchManifest(repository, tag)).content as Manifest

  await t.test(
    'each converts and is the same',
    { skip: fixtures === undefined && 'no fixtures' },
    async t => {
      registry.pushLayout(path.join(fixtures!, 'oci-layout'), 'oci', 'torture:oci')
      const forms = {
        v5: ['--fs-version', '5'],
        'v5-lz4': ['--fs-version', '5', '--compressor', 'lz4_block', '--chunk-size', '0x10000'],
        batch: ['--batch-size', '0x40000'],
        'batch-lz4': ['--batch-size', '0x10000', '--compressor', 'lz4_block', '--chunk-size', '0x10000'],
      }
      for (const [name, args] of Object.entries(forms)) {
        const pair = ['--source', ref('torture:oci'), '--target', ref(`torture:${name}`)]
        t.match(await run('convert', ...pair, ...args), { code: 0 }, name)
        t.match(
          await run('check', ...pair),
          { code: 0, stdout: /1684 names and 1582 files/ },
          `${name} is the same`,
        )
      }
      const { layers, annotations } = await fetch('torture', 'v5')
      t.match(layers.at(-1)?.annotations, { 'containerd.io/snapshot/nydus-fs-version': '5' })
      t.match(annotations, { 'containerd.io/snapshot/nydus-fs-version': '5' })

      const list = path.join(cwd, 'list.json')
      const paths = readExpected(fixtures!).filter(
        ({ type, size = 0, path }) => type === 'f' && size > 1000 && path !== undefined,
      )
      const files = paths.slice(0, 40).map(entry => ({ path: `/${entry.path}`, ranges: [[0, 100]] }))
      writeFileSync(list, JSON.stringify({ version: 'v1', files: [...files, { path: '/none' }] }))
      for (const form of ['batch', 'v5']) {
        const from = ['--source', ref(`torture:${form}`), '--target', ref(`fast:${form}`)]
        const optimized = await run('optimize', ...from, '--prefetch-files', list)
        t.match(
          optimized,
          { code: 0, stdout: /files in/, stderr: /listed paths are no files/ },
          optimized.stderr,
        )
        const fast = (await fetch('fast', form)).layers
        t.equal(fast.length, 4)
        const mark = 'containerd.io/snapshot/nydus-separated-blob-with-prefetch-files'
        t.equal(fast[2]?.annotations[mark], 'true')
        const same = await run('check', '--source', ref('torture:oci'), '--target', ref(`fast:${form}`))
        t.match(same, { code: 0 }, same.stderr)
      }
      writeFileSync(list, '[]')
      const pair = ['--source', ref('torture:batch'), '--target', ref('fast:x'), '--prefetch-files', list]
      t.match(await run('optimize', ...pair), { code: 2, stderr: /is no access list/ })
    },
  )

  await t.test('with the chunks of another image', async t => {
    const shared = [0, 1, 2].map(i => ({ name: `shared${i}`, body: randomBytes(200_000) }))
    const own = { name: 'own', body: randomBytes(50_000) }
    await pushImage(client, 'dict', 'oci', [{ bytes: gzipSync(tarBytes(shared)) }])
    await pushImage(client, 'app', 'oci', [
      { bytes: gzipSync(tarBytes([shared[0]!, own])) },
      { bytes: gzipSync(tarBytes([{ ...shared[1]!, name: 'again' }])) },
    ])
    for (const version of ['6', '5']) {
      const args = ['--fs-version', version]
      const dict = ref(`dict:n${version}`)
      t.match(await run('convert', '--source', ref('dict:oci'), '--target', dict, ...args), { code: 0 })
      const pair = ['--source', ref('app:oci'), '--target', ref(`app:n${version}`)]
      const before = registry.accessLog.length
      const converted = await run('convert', ...pair, ...args, '--chunk-dict', `bootstrap:registry:${dict}`)
      t.match(converted, { code: 0 }, `RAFS v${version}`)
      t.match(await run('check', ...pair), { code: 0 })
      const [dictBlob] = (await fetch('dict', `n${version}`)).layers
      const { layers } = await fetch('app', `n${version}`)
      t.equal(layers.length, 4, "two layers, the dictionary's blob, the bootstrap")
      t.equal(layers[2]?.digest, dictBlob?.digest)
      t.ok(layers[0]!.size < 80_000, 'the shared file is not stored again')
      const mounted = registry.accessLog.slice(before).filter(({ path }) => path.includes('mount='))
      t.equal(mounted.length, 1)
    }
    const wrong = ['--source', ref('app:oci'), '--target', ref('app:x'), '--chunk-size', '0x10000']
    t.match(await run('convert', ...wrong, '--chunk-dict', `bootstrap:registry:${ref('dict:n6')}`), {
      code: 2,
      stderr: /chunk size .*IMAGE_MISMATCH/,
    })
    t.match(await run('convert', ...wrong, '--chunk-dict', 'bootstrap:local:none'), { code: 5 })
  })

  await t.test('killed and started again', async t => {
    const work = path.join(cwd, 'work')
    const layers = Array.from({ length: 5 }, (_, i) => ({
      bytes: gzipSync(tarBytes([{ name: `file${i}`, body: randomBytes(6 << 20) }]), { level: 1 }),
    }))
    await pushImage(client, 'killed', 'oci', layers)
    const args = ['convert', '--source', ref('killed:oci'), '--target', ref('killed:n'), '--work-dir', work]
    const before = registry.accessLog.length
    /** Finished uploads: a PUT ends one. */
    const uploads = (): number =>
      registry.accessLog
        .slice(before)
        .filter(
          ({ method, path, status }) => method === 'PUT' && path.includes('/uploads/') && status === 201,
        ).length
    for (const done of [2, 4]) {
      const child = spawnNydusify(args)
      let stderr = ''
      child.stderr!.setEncoding('utf8').on('data', (piece: string) => {
        stderr += piece
        // The layer before the one that is told of is at the registry.
        if (stderr.includes(`layer ${done}/5`)) child.kill('SIGKILL')
      })
      await once(child, 'close')
      t.equal(child.signalCode, 'SIGKILL', stderr)
    }
    const ended = await nydusify(args)
    t.match(ended, { code: 0, stderr: /layer 1\/5: .*done by the interrupted run/ })
    t.match(ended.stderr, /layer 3\/5: .*done by the interrupted run/)
    t.ok(uploads() <= 5 + 2, `${uploads()} uploads of 5 data blobs, a bootstrap and a config`)
    t.same(readdirSync(work), [], 'nothing is left in the work directory')
    t.match(await run('check', '--source', ref('killed:oci'), '--target', ref('killed:n')), { code: 0 })
    const { digest } = await client.resolve('killed', 'n')
    const straight = await run('convert', '--source', ref('killed:oci'), '--target', ref('killed2:n'))
    t.match(straight, { code: 0, stdout: new RegExp(digest) }, 'the same bytes as in one go')
  })

  await t.test('a hundred layers', async t => {
    const layers = Array.from({ length: 100 }, (_, i) => ({
      bytes: gzipSync(
        tarBytes([
          { name: `dir${i % 7}/file${i}`, body: Buffer.from(`body ${i}`) },
          { name: 'changed', body: Buffer.from(`version ${i}`) },
          ...(i % 10 === 9 ? [{ name: `dir${(i - 3) % 7}/.wh.file${i - 3}` }] : []),
        ]),
      ),
    }))
    await pushImage(client, 'deep', 'oci', layers)
    const pair = ['--source', ref('deep:oci'), '--target', ref('deep:n')]
    t.match(await run('convert', ...pair), { code: 0, stderr: /layer 100\/100/ })
    t.match(await run('check', ...pair), { code: 0, stdout: /98 names and 91 files are the same/ })
  })
})
