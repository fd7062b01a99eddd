import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { encodeImage } from '../../../src/erofs/encode-image.js'
import type { DirectoryInode, ImageBlob, ImageInode, RafsImage } from '../../../src/erofs/image-tree.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { runProgram } from '../../helpers/command-line.js'
import { describeTree, directory, newBlob, newChunk, regular } from '../../helpers/made-tree.js'
import { fixturesDirectory } from '../../helpers/rafs-fixtures.js'
import { scratch } from '../../helpers/scratch.js'

const kind = {
  version: 6,
  chunkSize: 4096,
  digester: 'sha256',
  compressor: 'none',
  explicitOwners: true,
} as const
const fixtures = fixturesDirectory()
const skip = fixtures === undefined && 'the images of the reference tools are not at hand'

const load = (file: string): RafsImage => loadImage(new MemorySource(readFileSync(file)))

/** Writes a bootstrap; `name` is what its blob is named by. */
function bootstrap(
  file: string,
  children: Record<string, ImageInode>,
  more: Partial<RafsImage> = {},
): string {
  const image = { ...kind, ...more, root: directory(children), prefetch: [] }
  writeFileSync(file, encodeImage(image).bytes)
  return file
}

async function merge(t: Test, args: string[], input?: string) {
  return runProgram(t, 'nydus-image', ['merge', ...args], input === undefined ? {} : { input })
}

t.test('layers of the reference tools give the merged image of the reference tools', { skip }, async t => {
  const base = path.join(fixtures!, 'rafs')
  const out = path.join(scratch(t), 'merged.boot')
  for (const name of readdirSync(base)) {
    const own = path.join(base, name)
    const report = JSON.parse(readFileSync(path.join(own, 'merged.json'), 'utf8')) as { blobs: string[] }
    const sources = existsSync(path.join(own, 'layers'))
      ? ['lower', 'upper'].map(layer => path.join(own, 'layers', `${layer}.boot`))
      : report.blobs.map(id => path.join(own, 'blobs', id))
    const json = `${out}.json`
    const { code, stderr } = await merge(t, [...sources, '-B', out, '-J', json])
    t.equal(code, 0, `${name} ${stderr}`)
    const [ours, theirs] = [load(out), load(path.join(own, 'merged.boot'))]
    t.same(describeTree(ours.root), describeTree(theirs.root), name)
    t.same(ours.blobs, theirs.blobs, `${name} blobs`)
    const { root: _, ...facts } = ours
    const { root: __, ...wanted } = theirs
    t.same(facts, wanted, `${name} facts`)
    t.match(JSON.parse(readFileSync(json, 'utf8')), {
      blobs: report.blobs,
      fs_version: String(ours.version),
      bootstrap: out,
    })
  }
})

t.test('blobs in order of first use, unused ones gone, hints of what is there', async t => {
  const base = scratch(t)
  const [a, b, c] = [newBlob('a'), newBlob('b'), newBlob('c')]
  const lower = bootstrap(path.join(base, 'lower'), { gone: regular([newChunk(a, 1)]), d: directory({}) })
  const middle = bootstrap(path.join(base, 'middle'), {
    z: regular([newChunk(b, 2)]),
    d: directory({ x: regular() }),
  })
  const upper = bootstrap(path.join(base, 'upper'), { '.wh.gone': regular(), a: regular([newChunk(c, 3)]) })
  const out = path.join(base, 'out')
  const args = [lower, middle, upper, '-B', out, '--prefetch-policy', 'fs']
  const { code, stdout } = await merge(t, args, '/d/x\n/gone\n\n/z\n')
  t.equal(code, 0)
  t.match(stdout, new RegExp(`${c.id}\n.*${b.id}`))
  const image = load(out)
  t.same(
    image.blobs.map(({ id }) => id),
    [c.id, b.id],
  )
  const d = image.root.children.get('d') as DirectoryInode
  t.same(image.prefetch, [d.children.get('x'), image.root.children.get('z')])
  t.same([...image.root.children.keys()], ['a', 'd', 'z'])
})

t.test('a parent and a dictionary', async t => {
  const base = scratch(t)
  const [parentBlob, dictBlob] = [newBlob('a'), newBlob('d')]
  const dictChunks = [newChunk(dictBlob, 1), newChunk(dictBlob, 2)]
  const parent = bootstrap(path.join(base, 'parent'), {
    p: regular([newChunk(parentBlob, 5)]),
    q: regular([newChunk(newBlob('b'), 6)]),
  })
  const dict = bootstrap(path.join(base, 'dict'), {
    any: regular(dictChunks.slice(0, 1)),
    more: regular(dictChunks),
  })
  const layers = ['1', '2'].map(name =>
    bootstrap(path.join(base, name), {
      [`dict${name}`]: regular([dictChunks[0]!]),
      [`own${name}`]: regular([newChunk(newBlob(name), 7)]),
    }),
  )
  const out = path.join(base, 'out')
  const line = [...layers, '-B', out, '--parent-bootstrap', parent]
  t.match(await merge(t, line), { code: 2, stderr: /two|data blobs|--chunk-dict.*IMAGE_MISMATCH/ })
  const { code, stderr } = await merge(t, [...line, '--chunk-dict', `bootstrap=${dict}`])
  t.equal(code, 0, stderr)
  const { blobs, root } = load(out)
  t.same(
    blobs.map(({ id }) => id[0]),
    ['d', '1', '2', 'a', 'b'],
  )
  const chunksOf = (name: string) =>
    root.children.get(name)?.type === 'regular'
      ? (root.children.get(name) as ReturnType<typeof regular>).chunks
      : []
  t.equal(chunksOf('dict1')[0], chunksOf('dict2')[0], 'one chunk of the dictionary is one chunk of the image')
})

t.test('what a blob is called and how big it is', async t => {
  const base = scratch(t)
  const x = 'x'.repeat(64)
  const layer = (name: string, blob: ImageBlob) =>
    bootstrap(path.join(base, name), { [name]: regular([newChunk(blob, 1)]) })
  const placeholder = () => newBlob('x', { id: x, features: 0x40000003 })
  const named = layer(`${'e'.repeat(64)}.boot`, placeholder())
  const unnamed = layer('unnamed', placeholder())
  const plain = layer('plain', newBlob('a'))
  const out = path.join(base, 'out')
  t.match(await merge(t, [unnamed, '-B', out]), {
    code: 2,
    stderr: /unnamed.*--blob-digests.*IMAGE_MISMATCH/,
  })
  t.notOk(existsSync(out), 'nothing is left of a merge that failed')
  t.match(await merge(t, [named, '-B', out]), { code: 0 })
  t.match(load(out).blobs, [{ id: 'e'.repeat(64), features: 0x40000001 }])
  const lists = [
    ['--blob-digests', `${'1'.repeat(64)},`],
    ['--original-blob-ids', `,${'2'.repeat(64)}`],
    ['--blob-sizes', '12345,67890'],
    ['--blob-toc-digests', `${'3'.repeat(64)},${'4'.repeat(64)}`],
    ['--blob-toc-sizes', '1024,'],
  ]
  const done = await merge(t, [unnamed, plain, '-B', out, ...lists.flat()])
  t.equal(done.code, 0, done.stderr)
  const [first, second] = [...load(out).blobs].sort((a, b) => (a.id < b.id ? -1 : 1))
  t.match(first, {
    id: '1'.repeat(64),
    compressedSize: 12_345,
    toc: { sizeBytes: 1024, digest: Buffer.alloc(32, 0x33) },
  })
  t.match(second, { id: '2'.repeat(64), compressedSize: 67_890, toc: undefined })
  for (const [option, items] of [
    ['--blob-sizes', '1'],
    ['--blob-sizes', '1,-2'],
    ['--blob-digests', 'f,f'],
  ])
    t.match(await merge(t, [named, plain, '-B', out, option!, items!]), {
      code: 2,
      stderr: new RegExp(`${option} has`),
    })
})

t.test('layers that do not fit together', async t => {
  const base = scratch(t)
  const one = bootstrap(path.join(base, 'one'), { a: regular([newChunk(newBlob('a'), 1)]) })
  const out = path.join(base, 'out')
  const others: [Partial<RafsImage>, RegExp][] = [
    [{ chunkSize: 8192 }, /chunk size 8192 where 4096/],
    [{ explicitOwners: false }, /explicit owners/],
  ]
  for (const [more, message] of others) {
    const other = bootstrap(path.join(base, 'other'), { b: regular() }, more)
    t.match(await merge(t, [one, other, '-B', out]), { code: 2, stderr: message })
  }
  t.match(await merge(t, [one, path.join(base, 'none'), '-B', out]), { code: 5, stderr: /FILE_MISSING/ })
  writeFileSync(path.join(base, 'noise'), Buffer.alloc(9000, 'noise'))
  t.match(await merge(t, [path.join(base, 'noise'), '-B', out]), { code: 9, stderr: /RAFS_NOT_RAFS/ })
  t.match(await merge(t, ['-B', out]), { code: 2, stderr: /USAGE/ })
  t.match(await merge(t, [one, '-B', path.join(base, 'no', 'where')]), { code: 4 })
})
