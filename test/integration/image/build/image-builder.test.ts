import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  closeSync,
  createReadStream,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { LocalFsBackend } from '../../../../src/backend/localfs.js'
import { FileSource, MemorySource } from '../../../../src/common/byte-source.js'
import { Bootstrap } from '../../../../src/erofs/bootstrap.js'
import { encodeImage } from '../../../../src/erofs/encode-image.js'
import { loadImage } from '../../../../src/erofs/load-image.js'
import { extractBootstrap, readSections } from '../../../../src/erofs/toc.js'
import { openBlobDirectory } from '../../../../src/image/build/blob-output.js'
import { CompressPool } from '../../../../src/image/build/compress-pool.js'
import { DirectorySource } from '../../../../src/image/build/directory-source.js'
import {
  type BuildOptions,
  type BuiltImage,
  type LayerSource,
  buildImage,
} from '../../../../src/image/build/image-builder.js'
import { mergeLayers } from '../../../../src/image/build/merge.js'
import { ChunkReader } from '../../../../src/image/read/chunk-reader.js'
import { unpackToDirectory } from '../../../../src/image/read/unpack-directory.js'
import { decompressLayer } from '../../../../src/image/tar/layer-stream.js'
import { DEFAULT_LIMITS } from '../../../../src/image/tar/limits.js'
import { readTar } from '../../../../src/image/tar/tar-reader.js'
import { makeNode, setTimes } from '../../../../src/native/make-file.js'
import { readXattrs, setXattr } from '../../../../src/native/xattr.js'
import { type DescribedEntry, describeTree, makeAwkwardTree } from '../../../helpers/awkward-tree.js'
import { erofsMissing } from '../../../helpers/erofs-image.js'
import { withKernelMount } from '../../../helpers/kernel-mount.js'
import { fixturesDirectory, readExpected } from '../../../helpers/rafs-fixtures.js'
import { checkTree } from '../../../helpers/rafs-tree.js'
import { rootMissing, scratch } from '../../../helpers/scratch.js'

const cipher = {
  key: Buffer.from(Array.from({ length: 32 }, (_, i) => i)),
  iv: Buffer.from(Array.from({ length: 16 }, (_, i) => 255 - i)),
}

const FORMS = {
  plain: {},
  toc: { toc: true },
  inline: { inlineBootstrap: true },
  'inline+toc': { inlineBootstrap: true, toc: true },
  batch: { batchSize: 0x1000 },
  encrypt: { cipher },
  'batch+encrypt+toc': { batchSize: 0x1000, cipher, toc: true },
} as const satisfies Record<string, Partial<BuildOptions>>
const COMPRESSORS = ['none', 'lz4_block', 'zstd'] as const
const CHUNK_SIZES = [1 << 20, 1 << 16, 1 << 12]

const NAMES = Object.keys(FORMS) as (keyof typeof FORMS)[]

/** Some of many by turns: all of all would take minutes. */
class Turn<T> {
  readonly #all: readonly T[]
  #at = 0
  constructor(all: readonly T[]) {
    this.#all = all
  }
  next(count: number): T[] {
    return Array.from({ length: count }, () => this.#all[this.#at++ % this.#all.length]!)
  }
}

const pool = new CompressPool()
t.teardown(() => pool.close())

function optionsOf(
  form: keyof typeof FORMS,
  compressor: BuildOptions['compressor'],
  chunkSize: number,
): BuildOptions {
  const options: Partial<BuildOptions> = FORMS[form]
  return {
    version: 6,
    compressor,
    digester: 'blake3',
    alignedChunks: true,
    inlineBootstrap: false,
    toc: false,
    blobOffset: 0,
    explicitOwners: true,
    prefetchPolicy: 'none',
    prefetchPaths: [],
    limits: DEFAULT_LIMITS,
    ...options,
    chunkSize,
    // A quarter of a chunk, where that is allowed.
    batchSize: options.batchSize ? Math.max(options.batchSize, chunkSize / 4) : 0,
  }
}

async function build(directory: string, source: LayerSource, options: BuildOptions): Promise<BuiltImage> {
  return buildImage(source, await openBlobDirectory(directory), options, pool)
}

const tarSource = (file: string): LayerSource => ({
  entries: () => readTar(decompressLayer(createReadStream(file), DEFAULT_LIMITS)),
})

/** The bootstrap as a reader of the whole image has it: one inside a blob is encoded again with the blob's id. */
const bootstrapOf = (built: BuiltImage): Buffer => encodeImage(built.image).bytes

const withoutNanoseconds = ({ mtime_nsec: _, ...entry }: DescribedEntry) => entry

t.test('a directory in every form', { skip: rootMissing }, async t => {
  const tree = scratch(t)
  makeAwkwardTree(tree)
  const expected = describeTree(tree).map(withoutNanoseconds)
  const turn = new Turn(NAMES)
  for (const compressor of COMPRESSORS) {
    for (const chunkSize of CHUNK_SIZES) {
      for (const form of turn.next(3)) {
        await t.test(`${compressor} ${chunkSize} ${form}`, async t => {
          const directory = scratch(t)
          const options = optionsOf(form, compressor, chunkSize)
          const source = new DirectorySource(tree, readXattrs)
          const built = await build(directory, source, options)
          const bootstrap = Bootstrap.open(new MemorySource(bootstrapOf(built)))
          const open = (id: string) => new FileSource(path.join(directory, id))
          const checked = await checkTree(bootstrap, open, expected)
          t.same(checked.differences, [])
          t.equal(checked.unverifiable, 0)
          const again = await build(directory, source, options)
          t.equal(again.blobId, built.blobId, 'the same directory gives the same blob')
          t.equal(Buffer.compare(again.bootstrap, built.bootstrap), 0, 'and the same bootstrap')
          checkSections(t, built, options)
        })
      }
    }
  }
})

function checkSections(t: Test, built: BuiltImage, { toc, inlineBootstrap }: BuildOptions): void {
  const stored = new FileSource(built.path ?? '')
  t.equal(stored.sizeBytes, built.sizeBytes)
  t.equal(built.blob?.compressedSize, built.sizeBytes)
  const names = readSections(stored).map(({ name }) => name)
  const want = ['image.blob', 'blob.meta', toc && 'blob.digest', inlineBootstrap && 'image.boot']
  const all = [...want, toc && 'rafs.blob.toc'].filter(name => name !== false)
  t.same(names, toc || inlineBootstrap ? all : [])
  if (inlineBootstrap)
    t.equal(Buffer.compare(extractBootstrap(stored) ?? Buffer.alloc(0), built.bootstrap), 0)
  stored.close()
}
t.test('a directory as RAFS v5', { skip: rootMissing }, async t => {
  const tree = scratch(t)
  makeAwkwardTree(tree)
  const expected = describeTree(tree)
  const turn = new Turn([
    {},
    { inlineBootstrap: true },
    { alignedChunks: true },
    { digester: 'sha256' as const },
  ])
  for (const compressor of COMPRESSORS) {
    for (const chunkSize of CHUNK_SIZES) {
      const [form = {}] = turn.next(1)
      await t.test(`${compressor} ${chunkSize} ${JSON.stringify(form)}`, async t => {
        const directory = scratch(t)
        const options = {
          ...optionsOf('plain', compressor, chunkSize),
          version: 5 as const,
          alignedChunks: false,
        }
        const source = new DirectorySource(tree, readXattrs)
        const built = await build(directory, source, { ...options, ...form })
        const image = loadImage(new MemorySource(bootstrapOf(built)))
        const target = path.join(directory, 'tree')
        mkdirSync(target)
        const backend = new LocalFsBackend({ dir: directory })
        await unpackToDirectory(image, new ChunkReader(backend), target, { makeNode, setXattr, setTimes })
        await backend.close()
        t.same(describeTree(target), expected)
        const again = await build(directory, source, { ...options, ...form })
        t.equal(again.blobId, built.blobId, 'the same directory gives the same blob')
        t.equal(Buffer.compare(again.bootstrap, built.bootstrap), 0, 'and the same bootstrap')
      })
    }
  }
})

t.test('the kernel shows a built directory as it was', { skip: erofsMissing }, async t => {
  const tree = scratch(t)
  makeAwkwardTree(tree)
  const expected = describeTree(tree)
  for (const chunkSize of CHUNK_SIZES) {
    await t.test(String(chunkSize), async t => {
      const directory = scratch(t)
      const built = await build(directory, new DirectorySource(tree, readXattrs), {
        ...optionsOf('batch', 'zstd', chunkSize),
      })
      t.same(await withKernelMount(t, { directory, bytes: bootstrapOf(built) }, describeTree), expected)
    })
  }
})

t.test('a file of more than 4 GiB', { skip: erofsMissing }, async t => {
  const tree = scratch(t)
  const file = path.join(tree, 'large')
  const sizeBytes = 2 ** 32 + 5
  writeFileSync(file, '')
  truncateSync(file, sizeBytes - 5)
  appendFileSync(file, 'tail!')
  const directory = scratch(t)
  const built = await build(directory, new DirectorySource(tree, readXattrs), {
    ...optionsOf('plain', 'zstd', 1 << 24),
  })
  const inode = built.root.children.get('large')
  t.match(inode, { type: 'regular', sizeBytes })
  t.equal(built.blob?.chunkCount, 2, 'zeros are stored once')
  await withKernelMount(t, { directory, bytes: bootstrapOf(built) }, target => {
    const fd = openSync(path.join(target, 'large'), 'r')
    const tail = Buffer.alloc(16)
    t.equal(readSync(fd, tail, 0, 16, sizeBytes - 10), 10)
    closeSync(fd)
    t.equal(tail.toString('latin1', 0, 10), '\0\0\0\0\0tail!')
    t.equal(statSync(path.join(target, 'large')).size, sizeBytes)
  })
})

const fixtures = fixturesDirectory()
if (fixtures === undefined) {
  t.pass('no layers of the reference at hand', { skip: 'fixtures are not part of the source tree' })
} else {
  const layers = ['lower', 'upper'].map(name => path.join(fixtures, `torture/${name}.tar.gz`))
  const expected = readExpected(fixtures)
  const turn = new Turn(NAMES)
  COMPRESSORS.forEach(compressor => {
    CHUNK_SIZES.forEach((chunkSize, column) => {
      const [form = 'plain'] = turn.next(1)
      t.test(`the torture layers: ${compressor} ${chunkSize} ${form}`, async t => {
        const directory = scratch(t)
        const built = []
        for (const layer of layers)
          built.push(await build(directory, tarSource(layer), optionsOf(form, compressor, chunkSize)))
        const [lower, upper] = built
        if (!lower || !upper) throw new Error('two layers are expected')
        const root = mergeLayers([lower.root, upper.root])
        const { bytes } = encodeImage({ ...upper.image, root })
        const open = (id: string) => new FileSource(path.join(directory, id))
        const checked = await checkTree(Bootstrap.open(new MemorySource(bytes)), open, expected)
        t.same(checked.differences, [])
        t.equal(checked.entries, 1684)
        if (erofsMissing !== false || column !== 2) return
        const script = path.join(fixtures, 'check_tree.py')
        const known = path.join(fixtures, 'torture/expected.jsonl')
        const check = await withKernelMount(t, { directory, bytes }, target =>
          spawnSync('python3', [script, target, known], { encoding: 'utf8' }),
        )
        t.equal(check.stdout, '1684 entries, 0 differences\n')
      })
    })
  })
}

t.test('data of files to prefetch comes first in a blob', async t => {
  const tree = scratch(t)
  mkdirSync(path.join(tree, 'z'))
  const content = (name: string) => Array.from({ length: 9999 }, (_, i) => `${name} ${i}\n`).join('')
  for (const name of ['a', 'b', 'z/wanted', 'z/wanted-too'])
    writeFileSync(path.join(tree, name), content(name))
  const directory = scratch(t)
  const built = await build(directory, new DirectorySource(tree, () => new Map()), {
    ...optionsOf('plain', 'none', 1 << 12),
    prefetchPolicy: 'blob',
    prefetchPaths: ['/z', '/nowhere'],
  })
  const stored = readFileSync(built.path ?? '')
  const first = content('z/wanted') + content('z/wanted-too')
  t.equal(stored.toString('latin1', 0, first.length), first)
  t.equal(built.blob?.prefetchSize, first.length)
  t.same(built.image.prefetch, [], 'the bootstrap does not list them')
  const listed = await build(directory, new DirectorySource(tree, () => new Map()), {
    ...optionsOf('plain', 'none', 1 << 12),
    prefetchPolicy: 'fs',
    prefetchPaths: ['/z', '/nowhere'],
  })
  t.equal(listed.image.prefetch.length, 1)
  t.equal(listed.image.prefetch[0], listed.root.children.get('z'))
})

t.test('what was built before need not be stored again', async t => {
  const tree = scratch(t)
  writeFileSync(path.join(tree, 'shared'), 'shared'.repeat(1000))
  writeFileSync(path.join(tree, 'own'), 'own')
  const directory = scratch(t)
  const options = optionsOf('plain', 'zstd', 1 << 12)
  const source = new DirectorySource(tree, () => new Map())
  const before = await build(directory, source, options)
  const chunks = [...before.root.children.values()].flatMap(inode =>
    inode.type === 'regular' ? inode.chunks : [],
  )
  writeFileSync(path.join(tree, 'own'), 'something else')
  const find = (digest: string) => chunks.find(chunk => chunk.digest === digest)
  const after = await build(directory, source, { ...options, knownChunks: { find } })
  t.equal(after.blob?.chunkCount, 1)
  t.same(
    after.blobs.map(({ id }) => id).sort(),
    [before.blobId, after.blobId].sort(),
    'the image refers to both blobs',
  )
  const nothing = await build(directory, source, {
    ...options,
    knownChunks: {
      find: digest =>
        find(digest) ??
        [...after.root.children.values()]
          .flatMap(i => (i.type === 'regular' ? i.chunks : []))
          .find(c => c.digest === digest),
    },
  })
  t.equal(nothing.blob, undefined)
  t.equal(nothing.path, undefined, 'a layer without data of its own has no blob')
})
