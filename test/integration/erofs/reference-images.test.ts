import { readFileSync } from 'node:fs'
import path from 'node:path'
import { gunzipSync } from 'node:zlib'
import { extract } from 'tar-stream'
import t from 'tap'
import { FileSource, MemorySource } from '../../../src/common/byte-source.js'
import { parseMetaFile, parseStoredMeta, storedMetaRange } from '../../../src/erofs/blob-meta.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { extractBootstrap, readSections, readToc } from '../../../src/erofs/toc.js'
import { fixturesDirectory, rafsV6Images, readExpected } from '../../helpers/rafs-fixtures.js'
import { checkTree } from '../../helpers/rafs-tree.js'

const fixtures = fixturesDirectory()
if (fixtures === undefined) {
  t.pass('no images of the reference tools at hand', { skip: 'fixtures are not part of the source tree' })
} else {
  const expected = readExpected(fixtures)

  for (const image of rafsV6Images(fixtures)) {
    t.test(image.name, async t => {
      const source = new FileSource(image.bootstrap)
      t.teardown(() => source.close())
      const bootstrap = Bootstrap.open(source)
      const checked = await checkTree(
        bootstrap,
        blobId => new FileSource(path.join(image.blobs, blobId)),
        expected,
      )
      t.same(checked.differences, [])
      t.equal(checked.entries, 1684)
      // The chunks of replaced files have no digest in a merged bootstrap: some, but few.
      t.ok(
        checked.unverifiable > 0 && checked.unverifiable < 10,
        `${checked.unverifiable} unverifiable chunks`,
      )
    })
  }

  for (const tag of ['nydus', 'lz4']) {
    t.test(`OCI image ${tag}`, async t => {
      const layout = path.join(fixtures, 'oci-layout')
      const layer = await readBootstrapLayer(layout, tag)
      const image = layer.get('image/image.boot')
      if (image === undefined) throw new Error('no bootstrap in the last layer')
      const bootstrap = Bootstrap.open(new MemorySource(image))
      const open = (blobId: string) => new FileSource(path.join(layout, 'blobs/sha256', blobId))
      const checked = await checkTree(bootstrap, open, expected)
      t.same(checked.differences, [])
      t.equal(checked.entries, 1684)
      for (const blob of bootstrap.blobs) {
        const file = layer.get(`image/${blob.blobId}.blob.meta`)
        if (file === undefined) continue
        const range = storedMetaRange(blob)
        if (tag === 'lz4') {
          // The reference converter cannot unpack lz4 metadata and writes the header alone.
          t.throws(() => parseMetaFile(blob, file), { code: 'BLOB_META_INVALID', message: /4096 bytes long/ })
          continue
        }
        const stored = parseStoredMeta(blob, open(blob.blobId).read(range.offset, range.length))
        t.same(
          columns(parseMetaFile(blob, file)),
          columns(stored),
          'the metadata file says what the blob says',
        )
      }
      t.ok(bootstrap.blobs.some(blob => layer.has(`image/${blob.blobId}.blob.meta`)))
    })
  }

  t.test('blobs with a table of contents carry their own bootstrap', async t => {
    for (const name of ['v6-zstd-inline', 'v6-zstd-batch', 'v6-encrypt']) {
      const image = rafsV6Images(fixtures).find(image => image.name === name)
      if (image === undefined) throw new Error(name)
      const merged = Bootstrap.open(new FileSource(image.bootstrap))
      for (const blob of merged.blobs) {
        const source = new FileSource(path.join(image.blobs, blob.blobId))
        const sections = readSections(source)
        t.same(
          sections.map(section => section.name),
          ['image.blob', 'blob.meta', 'blob.digest', 'image.boot', 'rafs.blob.toc'],
        )
        t.equal(sections[1]?.offset, blob.ciOffset)
        t.equal(readToc(source)?.length, 5)
        const inlined = extractBootstrap(source)
        if (inlined === undefined) throw new Error('no bootstrap inside')
        const own = Bootstrap.open(new MemorySource(inlined))
        t.equal(own.blobs[0]?.chunkCount, blob.chunkCount)
        t.equal([...own.walk()].length, own.superblock.inos)
        source.close()
      }
    }
  })

  t.test('RAFS v5 is named, and its way out', async t => {
    for (const name of ['v5-lz4', 'v5-zstd-sha256']) {
      const source = new FileSource(path.join(fixtures, 'rafs', name, 'merged.boot'))
      t.throws(() => Bootstrap.open(source), { code: 'RAFS_UNSUPPORTED', message: /v5.*FUSE.*RAFS v6/ })
      source.close()
    }
  })

  t.test('zran can be walked; its data is refused by name', async t => {
    const layer = await readBootstrapLayer(path.join(fixtures, 'oci-layout'), 'zran')
    const bootstrap = Bootstrap.open(new MemorySource(layer.get('image/image.boot') ?? new Uint8Array(0)))
    t.equal([...bootstrap.walk()].length, 1685)
    for (const blob of bootstrap.blobs)
      t.throws(() => parseStoredMeta(blob, new Uint8Array(0)), { code: 'RAFS_UNSUPPORTED', message: /zran/ })
  })
}

function columns({ chunks }: ReturnType<typeof parseMetaFile>): number[][] {
  return Array.from({ length: chunks.count }, (_, chunk) => [
    chunks.offset(chunk),
    chunks.size(chunk),
    chunks.compressedOffset(chunk),
    chunks.compressedSize(chunk),
  ])
}

/** The files of the last layer of a tag in an OCI layout. */
async function readBootstrapLayer(layout: string, tag: string): Promise<Map<string, Uint8Array>> {
  const read = (digest: string) => readFileSync(path.join(layout, 'blobs', digest.replace(':', '/')))
  const index = JSON.parse(readFileSync(path.join(layout, 'index.json'), 'utf8')) as {
    manifests: { digest: string; annotations: Record<string, string> }[]
  }
  const found = index.manifests.find(m => m.annotations['org.opencontainers.image.ref.name'] === tag)
  const manifest = JSON.parse(read(found?.digest ?? '').toString()) as { layers: { digest: string }[] }
  const files = new Map<string, Uint8Array>()
  const tar = extract()
  tar.end(gunzipSync(read(manifest.layers.at(-1)?.digest ?? '')))
  for await (const entry of tar) {
    const parts: Buffer[] = []
    for await (const part of entry) parts.push(part as Buffer)
    files.set(entry.header.name, Buffer.concat(parts))
  }
  return files
}
