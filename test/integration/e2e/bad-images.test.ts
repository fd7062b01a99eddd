/** Registries and images that are wrong: ctr-remote says so in one sentence, and nothing half-made remains. */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { ANNOTATION } from '../../../src/oci/annotations.js'
import { MEDIA_TYPE } from '../../../src/oci/media-types.js'
import { LazyNode, until } from '../../helpers/lazy-node.js'
import { BLOB_TABLE, buildImage } from '../../helpers/rafs-image.js'
import { type FaultRegistry, digestOf, startFaultRegistry } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'
import { kernelPathMissing } from '../../helpers/supervised.js'
import { type TarItem, tarBytes } from '../../helpers/tar-bytes.js'

const skip =
  kernelPathMissing() || (existsSync('/usr/bin/containerd') ? false : 'containerd is not installed')

interface Layer {
  bytes: Buffer
  diffId: string
  mediaType: string
  annotations: Record<string, string>
}

const content = Buffer.alloc(100_000, 'lazy ')
const image = buildImage([{ name: 'file', mode: 0o100644, data: content }])
const blobLayer: Layer = {
  bytes: image.blob,
  diffId: digestOf(image.blob),
  mediaType: MEDIA_TYPE.nydusBlob,
  annotations: { [ANNOTATION.nydusBlob]: 'true' },
}

/** The layer of a bootstrap, with whatever it is to hold. */
function bootstrapLayer(items: TarItem[]): Layer {
  const tar = tarBytes(items)
  return {
    bytes: gzipSync(tar),
    diffId: digestOf(tar),
    mediaType: MEDIA_TYPE.ociLayerGzip,
    annotations: { [ANNOTATION.nydusBootstrap]: 'true' },
  }
}

const DIRECTORY: TarItem = { name: 'image', type: '5', mode: 0o755 }
const holding = (bytes: Buffer): Layer =>
  bootstrapLayer([DIRECTORY, { name: 'image/image.boot', body: bytes }])

/** An image of these layers under a tag. */
function addImage(registry: FaultRegistry, tag: string, layers: Layer[]): void {
  const rootfs = { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) }
  const config = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs, tag }))
  for (const bytes of [config, ...new Set(layers.map(layer => layer.bytes))]) registry.addBlob(bytes)
  const document = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPE.ociManifest,
    config: { mediaType: MEDIA_TYPE.ociConfig, digest: digestOf(config), size: config.length },
    layers: layers.map(({ bytes, mediaType, annotations }) => ({
      mediaType,
      digest: digestOf(bytes),
      size: bytes.length,
      annotations,
    })),
  }
  registry.addManifest(document, { tag })
}

t.setTimeout(300_000)

t.test('wrong images are refused, and nothing of them remains', { skip }, async t => {
  const registry = await startFaultRegistry(t)
  const node = await LazyNode.start(t, scratch(t))
  const reference = (tag: string): string => `${registry.host}/app:${tag}`
  const nothingRemains = (): Promise<void> =>
    until('nothing remains', async () => (await node.leftovers()).length === 0)

  addImage(
    registry,
    'many',
    Array.from({ length: 10_000 }, () => blobLayer),
  )
  addImage(registry, 'no-erofs', [blobLayer, holding(Buffer.from('<html>not an image</html>'))])
  addImage(registry, 'short', [blobLayer, holding(image.bootstrap.subarray(0, 1500))])
  addImage(registry, 'v5', [blobLayer, holding(Buffer.from('534641520005000000000000', 'hex'))])
  addImage(registry, 'no-bootstrap', [blobLayer, bootstrapLayer([DIRECTORY])])
  const link: TarItem = { name: 'image/image.boot', type: '2', linkname: '/etc/passwd' }
  addImage(registry, 'link', [blobLayer, bootstrapLayer([DIRECTORY, link])])
  const altered = holding(Buffer.concat([image.bootstrap, Buffer.alloc(4096)]))
  addImage(registry, 'altered', [blobLayer, altered])
  registry.inject(
    { target: 'blob', digest: digestOf(altered.bytes) },
    { alter: bytes => bytes.map(b => b ^ 1) },
  )
  registry.addManifest('{"schemaVersion": 2, "config"', { tag: 'cut' })
  const page = { status: 200, headers: { 'content-type': 'text/html' }, body: '<html>log in</html>' }
  registry.inject({ target: 'manifest', where: entry => entry.path.endsWith('/html') }, page)

  const cases: [tag: string, sentence: RegExp][] = [
    ['html', /\(REGISTRY_PROTOCOL\)$/],
    ['cut', /\(MANIFEST_INVALID\)$/],
    ['many', /layers.*\(MANIFEST_INVALID\)$/],
    ['no-erofs', /EROFS/],
    ['short', /bootstrap|superblock|EROFS/i],
    ['v5', /v(ersion )?5/i],
    ['no-bootstrap', /holds no file image\/image\.boot: convert the image again/],
    ['link', /holds no file image\/image\.boot: convert the image again/],
    ['altered', /\(DIGEST_MISMATCH\)$/],
    ['missing', /\(REGISTRY_NOT_FOUND\)$/],
  ]
  for (const [tag, sentence] of cases) {
    const { code, stderr } = await node.rpull(reference(tag))
    t.ok(code > 0, `${tag}: exit code ${code}`)
    t.match(stderr, /^ctr-remote: [^\n]+ \([A-Z_]+\)\n$/, 'one sentence and its code')
    t.match(stderr.trim(), sentence)
    await nothingRemains()
  }

  // Only the first block is looked at before it is mounted: what is wrong further on is told by who mounts it.
  const broken = Buffer.from(image.bootstrap)
  broken.fill(0xff, BLOB_TABLE)
  addImage(registry, 'broken', [blobLayer, holding(broken)])
  t.equal((await node.rpull(reference('broken'))).code, 0)
  const prepared = await node.prepare('container', reference('broken'))
  t.not(prepared.code, 0)
  t.match(prepared.stderr, /^ctr: [^\n]+\n$/)
  t.same(node.images(), [])
  t.notMatch((await node.ctr('snapshots', '--snapshotter', 'nydus', 'ls')).stdout, /^container/m)
  await node.ctr('images', 'rm', '--sync', reference('broken'))
  await nothingRemains()

  addImage(registry, 'good', [blobLayer, holding(image.bootstrap)])
  t.equal((await node.rpull(reference('good'))).code, 0, 'control: a right one of the same make')
  t.equal((await node.prepare('container', reference('good'))).code, 0)
  const [mounted] = node.images()
  // Not by a call that waits: the registry answers from this very process.
  t.ok((await readFile(path.join(mounted?.mountpoint ?? '', 'file'))).equals(content))
})
