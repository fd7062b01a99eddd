import t from 'tap'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { type Entry, writeImage } from '../../../demo/image.js'
import { busyboxLayer } from '../../../demo/layers.js'
import { type PullProgress, type PullResult, pullImage } from '../../../src/containerd/pull.js'
import { openRegistry } from '../../../src/containerd/registries.js'
import { Rpc } from '../../../src/containerd/rpc.js'
import type { Descriptor } from '../../../src/oci/manifest.js'
import { hostPlatform } from '../../../src/oci/platform.js'
import { parseReference } from '../../../src/oci/reference.js'
import { type PrivateContainerd, startContainerd } from '../../helpers/containerd.js'
import { missingDockerRegistry, startDockerRegistry } from '../../helpers/docker-registry.js'
import { type FaultRegistry, digestOf, startFaultRegistry } from '../../helpers/registry.js'

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const CONFIG = 'application/vnd.oci.image.config.v1+json'
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip'
const NYDUS_BLOB = 'application/vnd.oci.image.layer.nydus.blob.v1'

/** Notes what a pull tells of. */
class Fetched implements PullProgress {
  bytes = 0
  sizeBytes = 0
  readonly #types: string[] = []

  fetching(object: Descriptor): void {
    this.#types.push(object.mediaType)
    if (object.mediaType === LAYER) this.sizeBytes += object.size
  }

  received(_object: Descriptor, bytes: number): void {
    this.bytes += bytes
  }

  fetched(): void {
    // counted when it begins
  }

  get types(): string[] {
    return this.#types.sort()
  }
}

const skip = process.geteuid?.() === 0 ? missingDockerRegistry() : 'needs root'
if (skip === false) await main()
else t.plan(0, skip)

async function main(): Promise<void> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'pull-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const containerd = await startContainerd({ directory })
  t.teardown(() => containerd.stop())
  const ctr = async (namespace: string, ...args: string[]): Promise<string> => {
    const { stdout, stderr } = await containerd.ctr('--namespace', namespace, ...args)
    return stdout + stderr
  }

  const registry = await startDockerRegistry(t)
  const layout = path.join(directory, 'layout')
  const note: Entry = fileEntry('note', 'from the upper layer\n')
  const layers = [busyboxLayer(), [note]]
  await writeImage(layout, 'app', layers, { Cmd: ['/bin/busybox', 'cat', '/note'] })
  registry.pushLayout(layout, 'app', 'app:1')
  const reference = `${registry.host}/app:1`

  await t.test('a plain image is pulled, unpacked on the way, and runs', async t => {
    const fetched = new Fetched()
    const result = await pull(containerd, 'plain', reference, fetched)
    t.match(result, { layers: 2, unfetchedLayers: 0 })
    t.same(fetched.types, [CONFIG, LAYER, LAYER, MANIFEST], 'each object is told once')
    t.equal(fetched.bytes, fetched.sizeBytes, 'and its bytes, of layers, add up')
    const run = ['run', '--rm', ...containerd.runArgs, '--snapshotter', 'overlayfs', reference, 'one']
    t.equal(await ctr('plain', ...run), 'from the upper layer\n')
    t.match(await ctr('plain', 'images', 'check'), /complete \(3\/3\)/)
  })

  await t.test('labels that the snapshotter is given', async t => {
    const snapshots = (await ctr('plain', 'snapshots', '--snapshotter', 'overlayfs', 'ls')).split('\n')
    const top = snapshots.find(line => /sha256:\w+\s+sha256:/.test(line))?.split(/\s+/)[0] ?? ''
    const info = await ctr('plain', 'snapshots', '--snapshotter', 'overlayfs', 'info', top)
    t.match(JSON.parse(info), {
      Labels: {
        'containerd.io/snapshot.ref': top,
        'containerd.io/snapshot/cri.image-ref': reference,
        'containerd.io/snapshot/cri.layer-digest': /^sha256:/,
        'containerd.io/snapshot/cri.manifest-digest': /^sha256:/,
        'containerd.io/snapshot/cri.image-layers': /^sha256:/,
      },
    })
  })

  await t.test('what was pulled survives a collection of garbage, and goes when its image goes', async t => {
    registry.pushLayout(layout, 'app', 'other:1')
    const other = `${registry.host}/other:1`
    await pull(containerd, 'plain', other)
    await ctr('plain', 'images', 'rm', '--sync', other)
    t.match(await ctr('plain', 'images', 'check'), /complete \(3\/3\)/)
    const run = ['run', '--rm', ...containerd.runArgs, '--snapshotter', 'overlayfs', reference, 'two']
    t.equal(await ctr('plain', ...run), 'from the upper layer\n')
    t.equal((await ctr('plain', 'leases', 'ls', '--quiet')).trim(), '', 'no lease holds it')
    await ctr('plain', 'images', 'rm', '--sync', reference)
    t.same(await leftovers(ctr, 'plain'), [])
  })

  await t.test('layers that are there are not fetched again', async t => {
    await pull(containerd, 'again', reference)
    const seen = registry.accessLog.length
    const result = await pull(containerd, 'again', reference)
    t.match(result, { layers: 2, unfetchedLayers: 2 })
    const blobs = registry.accessLog.slice(seen).filter(line => line.path.includes('/blobs/'))
    t.ok(blobs.length <= 1, 'only the config is asked for')
  })

  await t.test('what another namespace of containerd has is not fetched', async t => {
    const seen = registry.accessLog.length
    await pull(containerd, 'neighbour', reference)
    const blobs = registry.accessLog.slice(seen).filter(line => line.path.includes('/blobs/'))
    t.ok(blobs.length <= 1, 'only the config is asked for')
    t.match(await ctr('neighbour', 'images', 'check'), /complete \(3\/3\)/)
    for (const namespace of ['again', 'neighbour']) {
      await ctr(namespace, 'images', 'rm', '--sync', reference)
      t.same(await leftovers(ctr, namespace), [])
    }
  })

  await t.test('pulls of one image at the same time', async t => {
    const results = await Promise.all([1, 2, 3].map(() => pull(containerd, 'crowd', reference)))
    t.equal(new Set(results.map(result => result.digest)).size, 1)
    t.match(await ctr('crowd', 'images', 'check'), /complete \(3\/3\)/)
    t.equal((await ctr('crowd', 'leases', 'ls', '--quiet')).trim(), '')
  })

  await t.test('bad registries: a typed error, and nothing half-made remains', async t => {
    const faulty = await startFaultRegistry(t)
    const bytes = gzipSync(Buffer.alloc(1024))
    imageOf(faulty, 'good', [{ bytes, diffId: digestOf(Buffer.alloc(1024)) }])
    t.equal((await pull(containerd, 'good', `${faulty.host}/app:good`)).layers, 1, 'control: this one pulls')

    const manyLayers = Array.from({ length: 10_000 }, () => ({ bytes, diffId: digestOf(bytes) }))
    imageOf(faulty, 'many', manyLayers)
    imageOf(faulty, 'wrong-diff-id', [{ bytes, diffId: digestOf(bytes) }])
    imageOf(faulty, 'no-tar', [{ bytes: gzipSync('no tar at all '.repeat(99)), diffId: digestOf(bytes) }])
    imageOf(faulty, 'nydus', [{ bytes, diffId: digestOf(bytes), mediaType: NYDUS_BLOB }])
    const other = gzipSync(Buffer.alloc(2048))
    imageOf(faulty, 'altered', [{ bytes: other, diffId: digestOf(other) }])
    faulty.inject({ target: 'blob', digest: digestOf(other) }, { alter: body => flipped(body) })
    imageOf(faulty, 'too-few', [], [digestOf(bytes)])
    faulty.addManifest('{"schemaVersion": 2, "config"', { tag: 'cut' })
    const page = { status: 200, headers: { 'content-type': 'text/html' }, body: '<html>log in</html>' }
    faulty.inject({ target: 'manifest', where: entry => entry.path.endsWith('/html') }, page)

    const cases: [string, string][] = [
      ['html', 'REGISTRY_PROTOCOL'],
      ['cut', 'MANIFEST_INVALID'],
      ['many', 'MANIFEST_INVALID'],
      ['too-few', 'MANIFEST_INVALID'],
      ['wrong-diff-id', 'DIGEST_MISMATCH'],
      ['no-tar', 'CONTAINERD_ERROR'],
      ['nydus', 'MANIFEST_UNSUPPORTED'],
      ['altered', 'DIGEST_MISMATCH'],
      ['missing', 'REGISTRY_NOT_FOUND'],
    ]
    for (const [tag, code] of cases) {
      await t.rejects(pull(containerd, 'bad', `${faulty.host}/app:${tag}`), { code }, `${tag}: ${code}`)
      t.same(await leftovers(ctr, 'bad'), [], 'nothing remains')
    }
  })

  await t.test('a pull that is stopped in the middle of a layer leaves nothing', async t => {
    const faulty = await startFaultRegistry(t)
    const bytes = gzipSync(Buffer.alloc(4096))
    imageOf(faulty, 'held', [{ bytes, diffId: digestOf(Buffer.alloc(4096)) }])
    const hold = faulty.hold({ target: 'blob', digest: digestOf(bytes) })
    const abort = new AbortController()
    const pulling = pull(containerd, 'stopped', `${faulty.host}/app:held`, new Fetched(), abort.signal)
    await hold.arrived
    abort.abort()
    await t.rejects(pulling, { code: 'CANCELLED' })
    hold.release()
    t.same(await leftovers(ctr, 'stopped'), [])
  })

  await t.test('a snapshotter that containerd does not know', async t => {
    await t.rejects(pull(containerd, 'none', reference, new Fetched(), undefined, 'nosuch'), {
      code: 'CONTAINERD_ERROR',
      message: /proxy_plugins\.nosuch/,
    })
    t.same(await leftovers(ctr, 'none'), [])
  })
}

async function pull(
  containerd: PrivateContainerd,
  namespace: string,
  reference: string,
  progress: PullProgress = new Fetched(),
  signal = new AbortController().signal,
  snapshotter = 'overlayfs',
): Promise<PullResult> {
  const image = parseReference(reference)
  const rpc = await Rpc.connect(containerd.address, namespace)
  const registry = await openRegistry(image, {}, signal)
  try {
    const options = { reference: image, snapshotter, platform: hostPlatform(), labels: {} }
    return await pullImage(rpc, registry, options, progress, signal)
  } finally {
    await registry.close()
    rpc.close()
  }
}

/** What containerd still holds of a namespace: content, snapshots, images, leases, unfinished writes. */
async function leftovers(ctr: (...args: string[]) => Promise<string>, namespace: string): Promise<string[]> {
  const listings = await Promise.all([
    ctr(namespace, 'content', 'ls', '--quiet'),
    ctr(namespace, 'content', 'active'),
    ctr(namespace, 'snapshots', '--snapshotter', 'overlayfs', 'ls'),
    ctr(namespace, 'images', 'ls', '--quiet'),
    ctr(namespace, 'leases', 'ls', '--quiet'),
  ])
  return listings.flatMap(text => text.split('\n')).filter(line => line !== '' && !/^(REF|KEY)\s/.test(line))
}

interface LayerOf {
  bytes: Buffer
  diffId: string
  mediaType?: string
}

/** An image of these layers in the registry; `diffIds` where the config shall say something else. */
function imageOf(registry: FaultRegistry, tag: string, layers: LayerOf[], diffIds?: string[]): string {
  const rootfs = { type: 'layers', diff_ids: diffIds ?? layers.map(layer => layer.diffId) }
  const config = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs, tag }))
  registry.addBlob(config)
  for (const digest of new Set(layers.map(layer => digestOf(layer.bytes)))) {
    const layer = layers.find(one => digestOf(one.bytes) === digest)
    if (layer) registry.addBlob(layer.bytes)
  }
  const document = {
    schemaVersion: 2,
    mediaType: MANIFEST,
    config: { mediaType: CONFIG, digest: digestOf(config), size: config.length },
    layers: layers.map(({ bytes, mediaType }) => ({
      mediaType: mediaType ?? LAYER,
      digest: digestOf(bytes),
      size: bytes.length,
    })),
  }
  return registry.addManifest(document, { tag })
}

function flipped(body: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(body)
  copy[copy.length - 1] = (copy[copy.length - 1] ?? 0) ^ 1
  return copy
}

function fileEntry(at: string, text: string): Entry {
  const bytes = Buffer.from(text)
  return { path: at, mode: 0o644, type: 'file', sizeBytes: bytes.length, source: { bytes } }
}
