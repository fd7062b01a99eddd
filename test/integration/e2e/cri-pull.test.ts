/** A pull as Kubernetes makes it: through containerd's CRI plugin, which hands a snapshotter labels of its own. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { writeImage } from '../../../demo/image.js'
import { busyboxLayer } from '../../../demo/layers.js'
import { CriClient } from '../../helpers/cri-client.js'
import { missingDockerRegistry, startDockerRegistry } from '../../helpers/docker-registry.js'
import { LazyNode, execNode, until } from '../../helpers/lazy-node.js'
import { digestOfBytes } from '../../helpers/push-image.js'
import { scratch } from '../../helpers/scratch.js'
import { kernelPathMissing } from '../../helpers/supervised.js'

const missing = ['containerd', 'runc', 'skopeo', 'busybox'].find(
  name => !existsSync(`/usr/bin/${name}`) && !existsSync(`/usr/sbin/${name}`) && !existsSync(`/bin/${name}`),
)
const skip =
  kernelPathMissing() ||
  missingDockerRegistry() ||
  (missing === undefined ? false : `${missing} is not installed`)

const BUSYBOX = '/bin/busybox'
const SIZE = 5_000_000

t.setTimeout(300_000)

t.test('an image pulled through the CRI is read lazily', { skip }, async t => {
  const registry = await startDockerRegistry(t)
  const directory = scratch(t)
  const bytes = randomBytes(SIZE)
  const data = { path: 'data', mode: 0o644, type: 'file', sizeBytes: SIZE, source: { bytes } } as const
  const layout = path.join(directory, 'layout')
  await writeImage(layout, 'app', [busyboxLayer(), [data]], { Cmd: [BUSYBOX, 'true'] })
  registry.pushLayout(layout, 'app', 'app:oci')
  const reference = `${registry.host}/app:nydus`
  const ends = ['--source', `${registry.host}/app:oci`, '--target', reference, '--work-dir', directory]
  const converted = await execNode('nydusify', ['convert', ...ends])
  t.equal(converted.code, 0, converted.stderr)

  const node = await LazyNode.start(t, directory, { criSnapshotter: 'nydus' })
  const cri = new CriClient(node.containerd.address)
  t.teardown(() => cri.close())
  const before = registry.accessLog.length
  const id = await cri.pull(reference)
  const image = await cri.status(reference)
  t.equal(image?.id, id)
  t.same(image?.repoTags, [reference])

  const sent = registry.accessLog.slice(before).filter(({ method }) => method === 'GET')
  t.ok(sent.length > 0)
  const total = sent.reduce((sum, { bytes }) => sum + bytes, 0)
  t.ok(total < SIZE / 10, `${total} bytes were fetched by the pull: no data`)
  const snapshots = await node.snapshotter.client.list()
  const layers = snapshots.filter(({ kind }) => kind === 'committed')
  t.equal(layers.length, 3, 'two data layers and the bootstrap')
  for (const { labels } of layers) {
    t.equal(labels['containerd.io/snapshot/cri.image-ref'], reference)
    t.match(labels['containerd.io/snapshot/cri.layer-digest'], /^sha256:/)
  }
  const content = (await node.ctr('--namespace', 'k8s.io', 'content', 'ls')).stdout
  t.notMatch(content, /nydus-blob/, 'containerd has no data blob')

  const args = ['run', '--rm', ...node.containerd.runArgs, '--snapshotter', 'nydus']
  const command = [BUSYBOX, 'sha256sum', '/data']
  const ran = await node.ctr('--namespace', 'k8s.io', ...args, reference, 'reader', ...command)
  t.equal(ran.code, 0, ran.stderr)
  t.equal(ran.stdout, `${digestOfBytes(bytes).slice(7)}  /data\n`)
  t.ok(
    registry.accessLog.some(({ status }) => status === 206),
    'its data came as ranges, when it was read',
  )

  await cri.remove(reference)
  t.equal(await cri.status(reference), null)
  await until('containerd has collected the snapshots', async () => {
    return (await node.snapshotter.client.list()).length === 0
  })
  await until('the image is unmounted', () => node.images().length === 0)
})
