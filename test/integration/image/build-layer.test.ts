import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { FileSource, MemorySource } from '../../../src/common/byte-source.js'
import { parseMetaFile } from '../../../src/erofs/blob-meta.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { extractBootstrap, readSection, readSections, readToc } from '../../../src/erofs/toc.js'
import { encodeBootstrap } from '../../../src/erofs/writer.js'
import { type BuiltLayer, type LayerOptions, buildLayer } from '../../../src/image/build/build-layer.js'
import { CompressPool } from '../../../src/image/build/compress-pool.js'
import { DEFAULT_LIMITS } from '../../../src/image/tar/limits.js'
import { mergeLayers } from '../../../src/image/build/merge.js'
import { mountErofs, unmount } from '../../../src/native/mount.js'
import { erofsMissing } from '../../helpers/erofs-image.js'
import { fixturesDirectory, rafsV6Images, readExpected } from '../../helpers/rafs-fixtures.js'
import { checkTree, decodeBlob } from '../../helpers/rafs-tree.js'
import { scratch } from '../../helpers/scratch.js'

const fixtures = fixturesDirectory()
if (fixtures === undefined) {
  t.pass('no images of the reference tools at hand', { skip: 'fixtures are not part of the source tree' })
} else {
  const pool = new CompressPool()
  t.teardown(() => pool.close())
  const sources = ['lower', 'upper'].map(name => path.join(fixtures, `torture/${name}.tar.gz`))

  for (const compressor of ['zstd', 'lz4_block', 'none'] as const) {
    t.test(compressor, async t => {
      const image = await build(scratch(t), sources, compressor, pool)
      const bootstrap = Bootstrap.open(new MemorySource(image.bytes))

      await t.test('reads back as the source layers', async t => {
        const open = (id: string) => new FileSource(path.join(image.directory, id))
        const checked = await checkTree(bootstrap, open, readExpected(fixtures))
        t.same(checked.differences, [])
        t.equal(checked.entries, 1684)
      })

      await t.test('the kernel and erofs-utils agree', { skip: erofsMissing }, async t => {
        const bootstrapFile = path.join(image.directory, 'merged.boot')
        writeFileSync(bootstrapFile, image.bytes)
        const devices = []
        for (const blob of bootstrap.blobs) {
          const device = path.join(image.directory, `${blob.blobId}.data`)
          const source = new FileSource(path.join(image.directory, blob.blobId))
          writeFileSync(device, (await decodeBlob(bootstrap, blob, source)).space)
          source.close()
          devices.push(device)
        }
        const flags = devices.map(device => `--device=${device}`)
        const fsck = spawnSync('fsck.erofs', [...flags, bootstrapFile], { encoding: 'utf8' })
        t.equal(fsck.status, 0, fsck.stderr)
        const dump = execFileSync('dump.erofs', ['-s', ...flags, bootstrapFile], { encoding: 'utf8' })
        t.match(dump, /Filesystem inode count: +1685/)
        const target = path.join(image.directory, 'mount')
        mkdirSync(target)
        await mountErofs({ source: bootstrapFile, devices, target, timeoutMs: 10_000 })
        const script = path.join(fixtures, 'check_tree.py')
        const expected = path.join(fixtures, 'torture/expected.jsonl')
        const check = spawnSync('python3', [script, target, expected], { encoding: 'utf8' })
        await unmount(target, { timeoutMs: 10_000 })
        t.equal(check.stdout, '1684 entries, 0 differences\n')
      })

      await t.test('a blob carries its sections, and the digests of them', async t => {
        for (const { path: file, blob, cacheMeta, digestHex } of image.layers) {
          const stored = readFileSync(file)
          t.equal(createHash('sha256').update(stored).digest('hex'), digestHex)
          const source = new MemorySource(stored)
          const names = readSections(source).map(({ name }) => name)
          t.same(names, ['image.blob', 'blob.meta', 'blob.digest', 'image.boot', 'rafs.blob.toc'])
          for (const entry of readToc(source) ?? []) {
            if (entry.name === 'image.blob') {
              const end = entry.compressedSize + 512
              const digest = createHash('sha256').update(stored.subarray(0, end)).digest()
              t.equal(Buffer.compare(digest, entry.digest), 0, 'the digest is of data and header')
            } else {
              t.ok(readSection(source, entry).length > 0, `${entry.name} has its digest`)
            }
          }
          const own = Bootstrap.open(new MemorySource(extractBootstrap(source) ?? new Uint8Array()))
          t.equal(own.blobs[0]?.blobId, 'x'.repeat(64))
          t.equal([...own.walk()].length, own.superblock.inos)
          const entry = bootstrap.blobs.find(({ blobId }) => blobId === digestHex)
          if (!entry || !cacheMeta) throw new Error('the merged bootstrap lacks a blob')
          t.equal(parseMetaFile(entry, cacheMeta).chunks.count, blob?.chunkCount)
        }
        const upper = image.layers[1]
        const own = Bootstrap.open(new MemorySource(extractBootstrap(new FileSource(upper!.path))!))
        t.ok(own.lookup('overlay/.wh.gone'), "a layer's own bootstrap keeps its whiteouts")
      })
    })
  }

  t.test('the reference tools place inodes and number them the same', async t => {
    const image = await build(scratch(t), sources, 'zstd', pool)
    const reference = rafsV6Images(fixtures).find(({ name }) => name === 'v6-zstd-inline')
    const places = (bootstrap: Bootstrap): string[] =>
      [...bootstrap.walk()].map(
        ({ name, inode }) => `${Buffer.from(name).toString('latin1')} ${inode.nid} ${inode.ino} ${inode.u}`,
      )
    const theirs = Bootstrap.open(new FileSource(reference!.bootstrap))
    t.same(places(Bootstrap.open(new MemorySource(image.bytes))), places(theirs))
  })

  t.test('the same layers give the same bytes', async t => {
    const [first, second] = [
      await build(scratch(t), sources, 'zstd', pool),
      await build(scratch(t), sources, 'zstd', pool),
    ]
    t.same(
      first.layers.map(layer => layer.digestHex),
      second.layers.map(layer => layer.digestHex),
    )
    t.equal(Buffer.compare(first.bytes, second.bytes), 0)
  })
}

interface Image {
  directory: string
  layers: BuiltLayer[]
  bytes: Buffer
}

/** Builds the layers in the directory, each blob in a file of its id. */
async function build(
  directory: string,
  sources: string[],
  compressor: LayerOptions['compressor'],
  pool: CompressPool,
): Promise<Image> {
  const options: LayerOptions = {
    chunkSize: 1 << 20,
    compressor,
    digester: 'blake3',
    version: 6,
    batchSize: 0,
    limits: DEFAULT_LIMITS,
  }
  const layers = []
  for (const [i, source] of sources.entries()) {
    const layer = await buildLayer(createReadStream(source), path.join(directory, `layer${i}`), options, pool)
    execFileSync('ln', [layer.path, path.join(directory, layer.digestHex)])
    layers.push(layer)
  }
  const merged = mergeLayers(layers.map(({ root }) => root))
  return { directory, layers, bytes: encodeBootstrap(merged, { ...options, prefetch: [merged] }).bytes }
}
