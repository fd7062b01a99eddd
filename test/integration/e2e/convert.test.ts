/** Layers full of awkward files, through our own converter and then our own drivers. */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { FileSource } from '../../../src/common/byte-source.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { RegistryClient } from '../../../src/oci/registry-client.js'
import { withMounted } from '../../helpers/apply-mounts.js'
import { missingDockerRegistry, startDockerRegistry } from '../../helpers/docker-registry.js'
import { LazyNode, dropPageCache, execNode, makeBelow } from '../../helpers/lazy-node.js'
import { pushImage } from '../../helpers/push-image.js'
import { fixturesDirectory } from '../../helpers/rafs-fixtures.js'
import { scratch } from '../../helpers/scratch.js'
import { checkTree, kernelPathMissing } from '../../helpers/supervised.js'

const fixtures = fixturesDirectory() ?? ''
const PERFECT = '1684 entries, 0 differences'

const missing = ['containerd', 'python3', 'fsck.erofs'].find(name => !existsSync(`/usr/bin/${name}`))
const skip =
  kernelPathMissing() ||
  missingDockerRegistry() ||
  (fixtures === '' ? 'needs the shared fixtures' : false) ||
  (missing === undefined ? false : `${missing} is not installed`)

t.setTimeout(300_000)

t.test('an image of ours, converted, pulled and read through the kernel', { skip }, async t => {
  const registry = await startDockerRegistry(t)
  const client = new RegistryClient({ host: registry.host })
  t.teardown(() => client.close())
  const layers = ['lower', 'upper'].map(name => ({
    bytes: readFileSync(path.join(fixtures, `torture/${name}.tar.gz`)),
  }))
  await pushImage(client, 'torture', 'oci', layers)
  const source = `${registry.host}/torture:oci`
  const directory = scratch(t)
  const node = await LazyNode.start(t, directory)
  const target = makeBelow(directory, 'target')

  for (const compressor of ['zstd', 'lz4_block', 'none']) {
    const reference = `${registry.host}/torture:${compressor}`
    const flags = ['--source', source, '--target', reference, '--compressor', compressor]
    const converted = await execNode('nydusify', ['convert', ...flags, '--work-dir', directory])
    t.equal(converted.code, 0, converted.stderr)
    const pulled = await node.rpull(reference)
    t.equal(pulled.code, 0, pulled.stderr)
    t.match(pulled.stdout, /3 layers, 2 of them not fetched/)
    const prepared = await node.prepare(`container-${compressor}`, reference)
    t.equal(prepared.code, 0, prepared.stderr)

    const mounts = await node.mounts(`container-${compressor}`)
    dropPageCache()
    const seen = await withMounted(mounts, target, root => checkTree(fixtures, root))
    t.equal(seen, PERFECT, `${compressor} as containers see it, cold`)
    const image = path.dirname(/lowerdir=(.*)/.exec(mounts[0]?.options.at(-1) ?? '')?.[1] ?? '')
    dropPageCache()
    t.equal(await checkTree(fixtures, path.join(image, 'mnt')), PERFECT, `${compressor} read again`)

    const bootstrap = path.join(image, 'fs/image/image.boot')
    const file = new FileSource(bootstrap)
    const devices = Bootstrap.open(file).blobs.map(
      ({ blobId }) => `--device=${path.join(node.snapshotter.root, 'cache', `${blobId}.blob.data`)}`,
    )
    file.close()
    const fsck = spawnSync('fsck.erofs', [...devices, bootstrap], { encoding: 'utf8' })
    t.equal(fsck.status, 0, fsck.stderr)
    const dump = execFileSync('dump.erofs', ['-s', ...devices, bootstrap], { encoding: 'utf8' })
    t.match(dump, /Filesystem inode count: +1685/)
  }
})
