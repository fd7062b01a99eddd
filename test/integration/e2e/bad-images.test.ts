/** Registries and images that are wrong: ctr-remote says so in one sentence, and nothing half-made remains. */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import t from 'tap'
import { LazyNode, until } from '../../helpers/lazy-node.js'
import { DIRECTORY, addImage, blobLayer, bootstrapLayer, holding } from '../../helpers/nydus-image.js'
import { BLOB_TABLE, buildImage } from '../../helpers/rafs-image.js'
import { digestOf, startFaultRegistry } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'
import { kernelPathMissing } from '../../helpers/supervised.js'
import type { TarItem } from '../../helpers/tar-bytes.js'

const skip =
  kernelPathMissing() || (existsSync('/usr/bin/containerd') ? false : 'containerd is not installed')

const content = Buffer.alloc(100_000, 'lazy ')
const image = buildImage([{ name: 'file', mode: 0o100644, data: content }])
const blob = blobLayer(image.blob)

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
    Array.from({ length: 10_000 }, () => blob),
  )
  addImage(registry, 'no-erofs', [blob, holding(Buffer.from('<html>not an image</html>'))])
  addImage(registry, 'short', [blob, holding(image.bootstrap.subarray(0, 1500))])
  addImage(registry, 'v5', [blob, holding(Buffer.from('534641520005000000000000', 'hex'))])
  addImage(registry, 'no-bootstrap', [blob, bootstrapLayer([DIRECTORY])])
  const link: TarItem = { name: 'image/image.boot', type: '2', linkname: '/etc/passwd' }
  addImage(registry, 'link', [blob, bootstrapLayer([DIRECTORY, link])])
  const altered = holding(Buffer.concat([image.bootstrap, Buffer.alloc(4096)]))
  addImage(registry, 'altered', [blob, altered])
  registry.inject(
    { target: 'blob', digest: digestOf(altered.bytes) },
    { alter: bytes => bytes.map(b => b ^ 1) },
  )
  registry.addManifest('{"schemaVersion": 2, "config"', { tag: 'cut' })
  const page = { status: 200, headers: { 'content-type': 'text/html' }, body: '<html>log in</html>' }
  registry.inject({ target: 'manifest', where: entry => entry.path.endsWith('/html') }, page)

  const cases: [tag: string, exitCode: number, sentence: RegExp][] = [
    ['html', 8, /\(REGISTRY_PROTOCOL\)$/],
    ['cut', 9, /\(MANIFEST_INVALID\)$/],
    ['many', 9, /layers.*\(MANIFEST_INVALID\)$/],
    ['no-erofs', 9, /EROFS.*\(RAFS_NOT_RAFS\)$/],
    ['short', 9, /bootstrap|superblock|EROFS/i],
    ['v5', 9, /v5.*\(RAFS_TRUNCATED\)$/],
    ['no-bootstrap', 9, /holds no file image\/image\.boot: convert the image again/],
    ['link', 9, /holds no file image\/image\.boot: convert the image again/],
    ['altered', 9, /\(DIGEST_MISMATCH\)$/],
    ['missing', 5, /\(REGISTRY_NOT_FOUND\)$/],
  ]
  for (const [tag, exitCode, sentence] of cases) {
    const { code, stderr } = await node.rpull(reference(tag))
    t.equal(code, exitCode, tag)
    t.match(stderr, /^ctr-remote: [^\n]+ \([A-Z_]+\)\n$/, 'one sentence and its code')
    t.match(stderr.trim(), sentence)
    await nothingRemains()
  }

  // Only the first block is looked at before it is mounted: what is wrong further on is told by who mounts it.
  const broken = Buffer.from(image.bootstrap)
  broken.fill(0xff, BLOB_TABLE)
  addImage(registry, 'broken', [blob, holding(broken)])
  t.equal((await node.rpull(reference('broken'))).code, 0)
  const prepared = await node.prepare('container', reference('broken'))
  t.not(prepared.code, 0)
  t.match(prepared.stderr, /^ctr: [^\n]+\n$/)
  t.same(node.images(), [])
  t.notMatch((await node.ctr('snapshots', '--snapshotter', 'nydus', 'ls')).stdout, /^container/m)
  await node.ctr('images', 'rm', '--sync', reference('broken'))
  await nothingRemains()

  addImage(registry, 'good', [blob, holding(image.bootstrap)])
  t.equal((await node.rpull(reference('good'))).code, 0, 'control: a right one of the same make')
  t.equal((await node.prepare('container', reference('good'))).code, 0)
  const [mounted] = node.images()
  // Not by a call that waits: the registry answers from this very process.
  t.ok((await readFile(path.join(mounted?.mountpoint ?? '', 'file'))).equals(content))
})
