/**
 * `nydusify convert`, `check`, `convert --reverse` and `check` of what comes back, on images of every kind, with the time
 * and the peak memory of each. Takes some minutes and 15 GiB below the temporary directory, so it is no part of `npm test`:
 * `npm run images [NAME …]`.
 */
import { existsSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { buildImage } from '../../demo/image-of-machine.js'
import { MEDIA_TYPE } from '../../src/oci/media-types.js'
import { RegistryClient } from '../../src/oci/registry-client.js'
import { missingDockerRegistry, startDockerRegistry } from '../helpers/docker-registry.js'
import { largeFile, smallFiles, writeLayout } from '../helpers/file-layers.js'
import { measureNydusify } from '../helpers/nydusify.js'
import { pushImage } from '../helpers/push-image.js'
import { fixturesDirectory } from '../helpers/rafs-fixtures.js'
import { scratch } from '../helpers/scratch.js'
import { tarBytes } from '../helpers/tar-bytes.js'

const fixtures = fixturesDirectory()

/** How the image is named as a source: options of nydusify. */
type Source = readonly string[]

interface Case {
  readonly name: string
  /** Which images of an index. */
  readonly platforms?: readonly string[]
  readonly skip?: string | false
  readonly make: (t: Test, directory: string) => Promise<Source> | Source
}

const inLayout = (reference: string, layout: string): Source => [
  ...['--source', reference],
  ...['--source-archive', layout],
]

/** Pushes to a registry of its own. */
async function atRegistry(
  t: Test,
  push: (client: RegistryClient) => Promise<unknown>,
): Promise<{ host: string }> {
  const registry = await startDockerRegistry(t)
  const client = new RegistryClient({ host: registry.host })
  await push(client)
  await client.close()
  return registry
}

/** A layer with a few files. */
const small = (name: string): Buffer =>
  gzipSync(tarBytes([{ name, body: Buffer.alloc(100_000, name) }, { name: `${name}.empty` }]))

/** Layers over one another, each tenth one deletes. */
const layerOf = (i: number): Buffer =>
  gzipSync(
    tarBytes([
      { name: `dir${i % 7}/file${i}`, body: Buffer.alloc(10_000, `body ${i}`) },
      { name: 'changed', body: Buffer.from(`version ${i}`) },
      ...(i % 10 === 9 ? [{ name: `dir${(i - 3) % 7}/.wh.file${i - 3}` }] : []),
    ]),
  )

const PLATFORMS = ['amd64', 'arm64', 's390x']

const CASES: readonly Case[] = [
  {
    name: 'torture',
    skip: fixtures === undefined && 'needs the shared fixtures',
    make: () => inLayout('fixtures/torture:oci', path.join(fixtures ?? '', 'oci-layout')),
  },
  {
    name: 'demo',
    skip: !existsSync('/bin/busybox') && 'needs busybox',
    make: async (_t, directory) => {
      const layout = path.join(directory, 'demo')
      await buildImage(layout)
      return inLayout('demo/app:app', layout)
    },
  },
  {
    name: 'docker',
    skip: missingDockerRegistry(),
    make: async t => {
      const layers = ['one', 'two'].map(name => ({ bytes: small(name) }))
      const { host } = await atRegistry(t, client =>
        pushImage(client, 'app', 'docker', layers, { docker: true }),
      )
      return ['--source', `${host}/app:docker`]
    },
  },
  {
    name: 'platforms',
    platforms: PLATFORMS.map(name => `linux/${name}`),
    skip: missingDockerRegistry(),
    make: async t => {
      const { host } = await atRegistry(t, async client => {
        const manifests = []
        for (const architecture of PLATFORMS) {
          const layers = [{ bytes: small('shared') }, { bytes: small(architecture) }]
          const pushed = await pushImage(client, 'app', architecture, layers, { architecture })
          manifests.push({ ...pushed, platform: { os: 'linux', architecture } })
        }
        const mediaType = MEDIA_TYPE.ociIndex
        const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests }))
        await client.putManifest('app', 'index', mediaType, index)
      })
      return ['--source', `${host}/app:index`]
    },
  },
  {
    name: 'layers',
    skip: missingDockerRegistry(),
    make: async t => {
      const layers = Array.from({ length: 100 }, (_, i) => ({ bytes: layerOf(i) }))
      const { host } = await atRegistry(t, client => pushImage(client, 'app', 'deep', layers))
      return ['--source', `${host}/app:deep`]
    },
  },
  {
    name: 'small-files',
    make: async (_t, directory) => {
      await writeLayout(path.join(directory, 'small'), smallFiles(200_000))
      return inLayout('bench/files:plain', path.join(directory, 'small'))
    },
  },
  {
    name: 'large-file',
    make: async (_t, directory) => {
      await writeLayout(path.join(directory, 'large'), largeFile(false))
      return inLayout('bench/files:plain', path.join(directory, 'large'))
    },
  },
]

const words = process.argv.slice(2)
const HOUR_MS = 3_600_000
t.setTimeout(0)
for (const { name, platforms, skip = false, make } of CASES) {
  if (words.length > 0 && !words.includes(name)) continue
  t.test(name, { skip, timeout: HOUR_MS }, async t => {
    const directory = scratch(t)
    const source = await make(t, directory)
    const work = ['--work-dir', path.join(directory, 'work')]
    const all = platforms ? ['--all-platforms'] : []
    const at = (reference: string): Source => [reference, '--target-archive', path.join(directory, reference)]
    const run = async (label: string, ...args: string[]): Promise<string> => {
      const { told, stdout } = await measureNydusify([...args, ...work])
      t.pass(`${label.padEnd(30)} ${told}`)
      return stdout
    }
    const compare = async (label: string, target: Source): Promise<void> => {
      for (const platform of platforms ?? [undefined]) {
        const one = platform === undefined ? [] : ['--platform', platform]
        const said = await run(
          `${label} ${platform ?? ''}`,
          'check',
          ...source,
          '--target',
          ...target,
          ...one,
        )
        t.match(said, / are the same/, said.trim())
      }
    }
    await run('convert', 'convert', ...source, '--target', ...at('nydus'), ...all)
    await compare('check', at('nydus'))
    const nydus = inLayout('nydus', path.join(directory, 'nydus'))
    await run('reverse', 'convert', '--reverse', ...nydus, '--target', ...at('again'), ...all)
    await compare('check of the reversed', at('again'))
  })
}
