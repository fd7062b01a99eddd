/** OCI layouts and archives of our own, and of skopeo. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { sha256 } from '../../../src/common/digest.js'
import { type ImageSource, type ImageTarget, ensureBlob, readBlob } from '../../../src/oci/image-store.js'
import { openLayoutSource } from '../../../src/oci/layout-source.js'
import { openLayoutTarget } from '../../../src/oci/layout-target.js'
import { MEDIA_TYPE } from '../../../src/oci/media-types.js'
import { parseReference } from '../../../src/oci/reference.js'
import { scratch } from '../../helpers/scratch.js'

const REFERENCE = parseReference('example.org/app:one')
const TAR = randomBytes(3_000_000)
// Compressed, for skopeo compresses what is not.
const LAYER = gzipSync(TAR)
const CONFIG = Buffer.from(
  JSON.stringify({
    architecture: 'amd64',
    os: 'linux',
    rootfs: { type: 'layers', diff_ids: [sha256(TAR)] },
  }),
)
const blobOf = (bytes: Buffer): { digest: string; size: number } => ({
  digest: sha256(bytes),
  size: bytes.length,
})
const MANIFEST = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    mediaType: MEDIA_TYPE.ociManifest,
    config: { mediaType: MEDIA_TYPE.ociConfig, ...blobOf(CONFIG) },
    layers: [{ mediaType: MEDIA_TYPE.ociLayerGzip, ...blobOf(LAYER) }],
  }),
)

async function store(target: ImageTarget): Promise<void> {
  for (const bytes of [LAYER, CONFIG]) await target.putBlob(blobOf(bytes), () => [bytes])
  await target.putManifest(MEDIA_TYPE.ociManifest, MANIFEST, { named: true })
}

async function readAll(source: ImageSource): Promise<Buffer> {
  const { content, bytes } = await source.resolve()
  if (content.kind !== 'manifest') throw new Error('an index')
  const parts = [content.config, ...content.layers]
  const blobs = await Promise.all(parts.map(part => readBlob(source, part, 1 << 24)))
  return Buffer.concat([bytes, ...blobs])
}

const skopeo = existsSync('/usr/bin/skopeo')
const copy = (from: string, to: string): string =>
  execFileSync('skopeo', ['copy', '--quiet', '--insecure-policy', from, to], {
    encoding: 'utf8',
    stdio: 'pipe',
  })

for (const [kind, name] of [
  ['archive', 'image.tar'],
  ['directory', 'layout/'],
] as const) {
  t.test(`an ${kind} of ours is read again, by skopeo too`, async t => {
    const file = path.join(scratch(t), name)
    const target = await openLayoutTarget(file, REFERENCE)
    await store(target)
    if (kind === 'archive') t.notOk(existsSync(file), 'nothing stands at the path before it is complete')
    await target.commit()
    await target.close()
    t.same(readdirSync(path.dirname(file)), [path.basename(name)], 'nothing is left beside it')
    const source = await openLayoutSource(file, REFERENCE)
    t.teardown(() => source.close())
    t.ok((await readAll(source)).equals(Buffer.concat([MANIFEST, CONFIG, LAYER])))
    t.same(Buffer.from(await source.readBlobRange(blobOf(LAYER), 100, 50)), LAYER.subarray(100, 150))
    await t.rejects(source.readBlobRange(blobOf(LAYER), LAYER.length - 5, 6), { code: 'DIGEST_MISMATCH' })
    if (!skopeo) return t.pass('no skopeo', { skip: 'skopeo is not installed' })
    const again = path.join(scratch(t), 'again')
    const transport = kind === 'archive' ? 'oci-archive' : 'oci'
    copy(`${transport}:${file.replace(/\/$/, '')}:one`, `${transport}:${again}:two`)
    const copied = await openLayoutSource(again, parseReference('example.org/app:two'))
    t.teardown(() => copied.close())
    t.ok((await readAll(copied)).equals(await readAll(source)))
  })
}

t.test('what names an image in a layout', async t => {
  const directory = path.join(scratch(t), 'layout')
  mkdirSync(directory)
  for (const tag of ['one', 'two']) {
    const target = await openLayoutTarget(directory, { ...REFERENCE, tag })
    await store(target)
    await target.commit()
  }
  const open = async (reference: string): Promise<string> =>
    (await (await openLayoutSource(directory, parseReference(reference))).resolve()).descriptor.digest
  t.equal(await open('example.org/app:one'), sha256(MANIFEST))
  t.equal(await open('elsewhere.org/x:two'), sha256(MANIFEST), 'the tag is enough')
  t.equal(await open(`example.org/app@${sha256(MANIFEST)}`), sha256(MANIFEST))
  await t.rejects(open('example.org/app:three'), { code: 'REGISTRY_NOT_FOUND', message: /app:one.*app:two/ })
  const index = JSON.parse(readFileSync(path.join(directory, 'index.json'), 'utf8')) as {
    manifests: { annotations?: unknown }[]
  }
  t.equal(index.manifests.length, 2)
  delete index.manifests[0]!.annotations
  writeFileSync(
    path.join(directory, 'index.json'),
    JSON.stringify({ ...index, manifests: index.manifests.slice(0, 1) }),
  )
  t.equal(await open('any.org/name:tag'), sha256(MANIFEST), 'the only one, without a name')
})

t.test('damaged and missing layouts are told', async t => {
  const directory = scratch(t)
  const open = (name: string): Promise<ImageSource> => openLayoutSource(path.join(directory, name), REFERENCE)
  await t.rejects(open('none'), { code: 'FILE_MISSING' })
  writeFileSync(path.join(directory, 'text'), 'x'.repeat(4000))
  await t.rejects(open('text'), { code: 'MANIFEST_INVALID', message: /no tar archive/ })
  writeFileSync(path.join(directory, 'empty.tar'), Buffer.alloc(1024))
  await t.rejects(open('empty.tar'), { code: 'MANIFEST_INVALID', message: /no index.json/ })
  const layout = path.join(directory, 'layout')
  mkdirSync(layout)
  const target = await openLayoutTarget(layout, REFERENCE)
  await store(target)
  const source = await open('layout')
  const file = path.join(layout, 'blobs/sha256', sha256(LAYER).slice(7))
  writeFileSync(
    file,
    LAYER.map((byte, i) => (i === 99 ? 0 : byte)),
  )
  await t.rejects(readBlob(source, blobOf(LAYER), 1 << 24), { code: 'DIGEST_MISMATCH' })
  writeFileSync(file, LAYER.subarray(1))
  await t.rejects(readBlob(source, blobOf(LAYER), 1 << 24), { code: 'DIGEST_MISMATCH' })
  await t.rejects(readBlob(source, blobOf(Buffer.from('no')), 9), { code: 'REGISTRY_NOT_FOUND' })
  await t.rejects(readBlob(source, blobOf(LAYER), 9), { code: 'REGISTRY_PROTOCOL' })
  const archive = path.join(directory, 'cut.tar')
  const cut = await openLayoutTarget(archive, REFERENCE)
  await store(cut)
  await cut.commit()
  writeFileSync(archive, readFileSync(archive).subarray(0, 1_000_000))
  await t.rejects(open('cut.tar'), { code: 'MANIFEST_INVALID' })
})

t.test('a failed write leaves nothing at the path', async t => {
  const directory = scratch(t)
  for (const name of ['image.tar', 'layout/']) {
    const target = await openLayoutTarget(path.join(directory, name), REFERENCE)
    const wrong = { ...blobOf(LAYER), digest: sha256(CONFIG) }
    await t.rejects(
      target.putBlob(wrong, () => [LAYER]),
      { code: 'DIGEST_MISMATCH' },
    )
    await target.close()
  }
  t.same(readdirSync(directory), ['layout'])
  t.same(readdirSync(path.join(directory, 'layout/blobs/sha256')), [])
  const source = await openLayoutSource(path.join(directory, 'layout'), REFERENCE)
  const target = await openLayoutTarget(path.join(directory, 'copy.tar'), REFERENCE)
  await t.rejects(ensureBlob(target, blobOf(LAYER), source), { code: 'REGISTRY_NOT_FOUND' })
  await target.close()
  t.same(readdirSync(directory), ['layout'])
})
