import t from 'tap'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pullImage } from '../../../src/containerd/pull.js'
import { openRegistry } from '../../../src/containerd/registries.js'
import { Rpc } from '../../../src/containerd/rpc.js'
import { isNydusBlob } from '../../../src/containerd/unpack.js'
import type { Descriptor } from '../../../src/oci/manifest.js'
import { hostPlatform } from '../../../src/oci/platform.js'
import { parseReference } from '../../../src/oci/reference.js'
import { startContainerd } from '../../helpers/containerd.js'
import { missingDockerRegistry, startDockerRegistry } from '../../helpers/docker-registry.js'
import { fixturesDirectory } from '../../helpers/rafs-fixtures.js'
import { startSnapshotsServer } from '../../helpers/snapshots-server.js'

const fixtures = fixturesDirectory()
const skip = process.geteuid?.() === 0 ? missingDockerRegistry() : 'needs root'
if (skip !== false) t.plan(0, skip)
else if (fixtures === undefined) t.plan(0, 'no images of the reference tools here')
else await main(path.join(fixtures, 'oci-layout'))

async function main(layout: string): Promise<void> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'lazy-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const snapshotter = await startSnapshotsServer(path.join(directory, 'nydus'))
  t.teardown(() => snapshotter.close())
  const proxySnapshotters = { nydus: snapshotter.socket }
  const containerd = await startContainerd({ directory, proxySnapshotters })
  t.teardown(() => containerd.stop())
  const registry = await startDockerRegistry(t)
  registry.pushLayout(layout, 'nydus', 'torture:nydus')
  const reference = parseReference(`${registry.host}/torture:nydus`)
  const name = `${registry.host}/torture:nydus`

  const fetched: Descriptor[] = []
  const pull = async (namespace: string) => {
    const signal = new AbortController().signal
    const rpc = await Rpc.connect(containerd.address, namespace)
    const client = await openRegistry(reference, {}, signal)
    const progress = {
      fetching: (object: Descriptor) => void fetched.push(object),
      received: () => undefined,
      fetched: () => undefined,
    }
    try {
      const options = { reference, snapshotter: 'nydus', platform: hostPlatform(), labels: { made: 'here' } }
      return await pullImage(rpc, client, options, progress, signal)
    } finally {
      await client.close()
      rpc.close()
    }
  }
  const ctr = async (...args: string[]): Promise<string> => {
    const { stdout, stderr } = await containerd.ctr('--namespace', 'lazy', ...args)
    return stdout + stderr
  }
  const snapshots = (): Promise<string> => ctr('snapshots', '--snapshotter', 'nydus', 'ls')

  await t.test('data layers stay in the registry', async t => {
    t.match(await pull('lazy'), { layers: 3, unfetchedLayers: 2 })
    t.equal(fetched.length, 3, 'manifest, config and bootstrap layer')
    t.notOk(fetched.some(isNydusBlob))
    const blobs = registry.accessLog.filter(line => line.method === 'GET' && line.path.includes('/blobs/'))
    t.equal(blobs.length, 2, 'the registry was asked for config and bootstrap only')
    t.equal((await snapshots()).match(/Committed/g)?.length, 3, 'each layer has its snapshot')
    t.match(await ctr('images', 'ls'), /made=here/)
  })

  await t.test('the snapshotter was told which image and which layer it is', async t => {
    const chains = (await snapshots()).match(/^sha256:\w+/gm) ?? []
    const infos = await Promise.all(
      chains.map(async chain => {
        const text = await ctr('snapshots', '--snapshotter', 'nydus', 'info', chain)
        return (JSON.parse(text) as { Labels: Record<string, string> }).Labels
      }),
    )
    t.equal(infos.filter(labels => labels['containerd.io/snapshot/nydus-blob'] === 'true').length, 2)
    t.equal(infos.filter(labels => labels['containerd.io/snapshot/nydus-bootstrap'] === 'true').length, 1)
    for (const labels of infos) t.equal(labels['containerd.io/snapshot/cri.image-ref'], name)
  })

  await t.test('a collection of garbage leaves it whole, without its image it goes', async t => {
    // Deleting any image in the synchronous way collects at once.
    await containerd.ctr('--namespace', 'lazy', 'images', 'tag', name, 'other')
    await ctr('images', 'rm', '--sync', 'other')
    t.equal((await snapshots()).match(/Committed/g)?.length, 3)
    t.match(await ctr('content', 'ls', '--quiet'), /(sha256:\w+\s+){3}/)
    await ctr('images', 'rm', '--sync', name)
    t.notMatch(await snapshots(), /Committed/)
    t.equal((await ctr('content', 'ls', '--quiet')).trim(), '')
  })

  await t.test('two namespaces share it', async t => {
    await pull('lazy')
    t.match(await pull('second'), { layers: 3, unfetchedLayers: 2 }, 'only the bootstrap is unpacked again')
    const { stdout } = await containerd.ctr(
      '--namespace',
      'second',
      'snapshots',
      '--snapshotter',
      'nydus',
      'ls',
    )
    t.equal(stdout.match(/Committed/g)?.length, 3)
  })
}
