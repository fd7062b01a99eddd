import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createReadStream, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { PLACEHOLDER_BLOB_ID } from '../../../src/erofs/format.js'
import type { RafsImage } from '../../../src/erofs/image-tree.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { extractBootstrap } from '../../../src/erofs/toc.js'
import { describeTree, makeAwkwardTree } from '../../helpers/awkward-tree.js'
import { type Outcome, runProgram } from '../../helpers/command-line.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'
import { tarBytes } from '../../helpers/tar-bytes.js'

t.setTimeout(300_000)

const load = (file: string): RafsImage => loadImage(new MemorySource(readFileSync(file)))
const sha256 = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex')

async function create(t: Test, args: string[], input?: string): Promise<Outcome> {
  const outcome = await runProgram(
    t,
    'nydus-image',
    ['create', ...args],
    input === undefined ? {} : { input },
  )
  t.equal(outcome.code, 0, outcome.stderr)
  return outcome
}

/** A directory with some files, and one for blobs. */
function made(t: Test): { tree: string; blobs: string; out: string } {
  const out = scratch(t)
  const [tree, blobs] = ['tree', 'blobs'].map(name => path.join(out, name)) as [string, string]
  for (const directory of [tree, blobs, path.join(tree, 'd')]) mkdirSync(directory)
  for (const name of ['a', 'd/b', 'd/c']) writeFileSync(path.join(tree, name), `${name} `.repeat(3000))
  return { tree, blobs, out }
}

t.test('a directory goes through every kind of image and comes back', { skip: rootMissing }, async t => {
  const tree = scratch(t)
  makeAwkwardTree(tree)
  const expected = describeTree(tree)
  const lines = [
    ['--features', 'blob-toc', '--batch-size', '0x10000', '--encrypt'],
    ['--fs-version', '5', '--compressor', 'lz4_block', '--chunk-size', '0x10000'],
  ]
  for (const line of lines) {
    const out = scratch(t)
    const bootstrap = path.join(out, 'boot')
    await create(t, [...line, '-D', out, '-B', bootstrap, tree])
    const target = path.join(out, 'tree')
    const unpacked = await runProgram(t, 'nydus-image', [
      'unpack',
      bootstrap,
      '-D',
      out,
      '--output-dir',
      target,
    ])
    t.equal(unpacked.code, 0, unpacked.stderr)
    t.same(describeTree(target), expected, line.join(' '))
  }
})

t.test('where blob and bootstrap go, and what is told of them', async t => {
  const { tree, blobs, out } = made(t)
  const json = path.join(out, 'out.json')
  const { stdout } = await create(t, ['-D', blobs, '-J', json, tree])
  const report = JSON.parse(readFileSync(json, 'utf8')) as { blobs: string[]; bootstrap: string }
  const [id = ''] = report.blobs
  t.match(report, { fs_version: '6', compressor: 'zstd', external_blobs: [] })
  t.equal(path.basename(report.bootstrap), sha256(report.bootstrap), 'the bootstrap has its digest as name')
  t.equal(id, sha256(path.join(blobs, id)), 'and so has the blob')
  t.same(readdirSync(blobs).sort(), [id, path.basename(report.bootstrap)].sort(), 'nothing else is left')
  const size = statSync(path.join(blobs, id)).size.toString(16)
  t.equal(stdout, `meta blob path: ${report.bootstrap}\ndata blob size: 0x${size}\ndata blobs: ["${id}"]\n`)

  const legacy = ['--backend-type', 'localfs', '--backend-config']
  const again = scratch(t)
  const warned = await create(t, [...legacy, JSON.stringify({ dir: again }), '-B', path.join(out, 'x'), tree])
  t.match(warned.stderr, /deprecated/)
  t.same(readdirSync(again), [id], 'the same blob')
  const file = path.join(out, 'blob')
  await create(t, [...legacy, JSON.stringify({ blob_file: file }), '-B', path.join(out, 'x'), tree])
  t.equal(sha256(file), id)

  const given = 'ab'.repeat(32)
  await create(t, ['-D', blobs, '--blob-id', given, '-B', path.join(out, 'x'), tree])
  t.equal(sha256(path.join(blobs, given)), id)
  t.equal(load(path.join(out, 'x')).blobs[0]?.id, given)
})

t.test('a pipe in and a pipe out', async t => {
  const { out } = made(t)
  const [source, blob] = ['source', 'blob'].map(name => path.join(out, name)) as [string, string]
  execFileSync('mkfifo', [source, blob])
  const layer = gzipSync(tarBytes([{ name: 'x', body: Buffer.from('x'.repeat(9000)) }]))
  const feed = spawn('sh', ['-c', 'cat > "$0"', source], { stdio: ['pipe', 'ignore', 'inherit'] })
  t.teardown(() => feed.kill('SIGKILL'))
  feed.stdin.end(layer)
  const parts: Buffer[] = []
  const reading = createReadStream(blob).on('data', part => parts.push(part as Buffer))
  const ended = once(reading, 'end')
  const json = path.join(out, 'json')
  await create(t, [
    '-t',
    'tar-rafs',
    '--blob',
    blob,
    '--blob-inline-meta',
    '--features',
    'blob-toc',
    '-J',
    json,
    source,
  ])
  await ended
  const bytes = Buffer.concat(parts)
  const { blobs } = JSON.parse(readFileSync(json, 'utf8')) as { blobs: string[] }
  t.same(blobs, [createHash('sha256').update(bytes).digest('hex')])
  const inside = extractBootstrap(new MemorySource(bytes))
  t.equal(loadImage(new MemorySource(inside ?? Buffer.alloc(0))).blobs[0]?.id, PLACEHOLDER_BLOB_ID)
})

t.test('upon a parent and with a dictionary nothing is stored twice', async t => {
  for (const version of ['5', '6']) {
    const { tree, blobs, out } = made(t)
    const [base, dict, top] = ['base', 'dict', 'top'].map(name => path.join(out, name)) as [
      string,
      string,
      string,
    ]
    const line = ['-v', version, '-D', blobs, '--chunk-size', '0x1000']
    await create(t, [...line, '-B', base, tree])
    const other = scratch(t)
    writeFileSync(path.join(other, 'known'), 'known '.repeat(3000))
    await create(t, [...line, '-B', dict, other])
    const layer = scratch(t)
    writeFileSync(path.join(layer, 'a2'), 'a '.repeat(3000))
    writeFileSync(path.join(layer, 'k2'), 'known '.repeat(3000))
    writeFileSync(path.join(layer, 'own'), 'own')
    mkdirSync(path.join(layer, 'd'))
    writeFileSync(path.join(layer, 'd/.wh.b'), '')
    await create(t, [
      ...line,
      '-B',
      top,
      '--parent-bootstrap',
      base,
      '--chunk-dict',
      `bootstrap=${dict}`,
      layer,
    ])
    const image = load(top)
    t.same([...image.root.children.keys()].sort(), ['a', 'a2', 'd', 'k2', 'own'])
    const d = image.root.children.get('d')
    t.same(d?.type === 'directory' && [...d.children.keys()], ['c'], 'a whiteout deletes')
    const before = new Set([load(base), load(dict)].map(({ blobs }) => blobs[0]?.id))
    t.equal(image.blobs.length, 3)
    t.equal(
      image.blobs.find(({ id }) => !before.has(id))?.chunkCount,
      1,
      'only what is new is in the new blob',
    )
    const kept = await create(t, [
      ...line,
      '-B',
      top,
      '--parent-bootstrap',
      base,
      '--whiteout-spec',
      'none',
      layer,
    ])
    t.equal(kept.stderr, '')
    const marked = load(top).root.children.get('d')
    t.same(marked?.type === 'directory' && [...marked.children.keys()].sort(), ['.wh.b', 'b', 'c'])
    const target = path.join(out, 'unpacked.tar')
    const unpacked = await runProgram(t, 'nydus-image', ['unpack', top, '-D', blobs, '--output', target])
    t.equal(unpacked.code, 0, unpacked.stderr)
    const a2 = execFileSync('tar', ['-xOf', target, 'a2']).toString()
    t.equal(a2, 'a '.repeat(3000), 'a shared chunk is found in the blob of the parent')
    const wrong = await runProgram(t, 'nydus-image', [
      'create',
      '-v',
      version,
      '-D',
      blobs,
      '--parent-bootstrap',
      base,
      layer,
    ])
    t.match(wrong.stderr, /chunk size 4096 where 1048576 is wanted.*\(IMAGE_MISMATCH\)/)
  }
})

t.test('what is to be prefetched comes from standard input', async t => {
  const { tree, blobs, out } = made(t)
  const boot = path.join(out, 'boot')
  await create(t, ['-D', blobs, '-B', boot, '--prefetch-policy', 'fs', tree], '/d\n\n/nowhere\n')
  const image = load(boot)
  t.same(image.prefetch, [image.root.children.get('d')])
  await create(t, ['-D', blobs, '-B', boot, '--prefetch-policy', 'fs', tree], '')
  const all = load(boot)
  t.equal(all.prefetch[0], all.root, 'no line: everything')
  await create(
    t,
    ['-D', blobs, '-B', boot, '--prefetch-policy', 'blob', '--compressor', 'none', tree],
    '/d/c\n',
  )
  const first = load(boot)
  const stored = readFileSync(path.join(blobs, first.blobs[0]?.id ?? ''))
  t.ok(stored.toString('latin1').startsWith('d/c d/c'), 'its data comes first')
  t.same(first.prefetch, [])
  const line = ['-v', '5', '--compressor', 'none', '-D', blobs, '-B', boot, '--prefetch-policy', 'blob']
  await create(t, [...line, tree], '/d/c\n')
  t.equal(load(boot).blobs[0]?.prefetchSize, 'd/c '.length * 3000, 'which RAFS v5 says of the blob')
})

t.test('without owners the bytes are the same, whoever owns the source', { skip: rootMissing }, async t => {
  const { tree, blobs, out } = made(t)
  const [one, two] = ['one', 'two'].map(name => path.join(out, name)) as [string, string]
  await create(t, ['-D', blobs, '-B', one, '--repeatable', tree])
  execFileSync('chown', ['-R', '1234:5678', tree])
  await create(t, ['-D', blobs, '-B', two, '--repeatable', tree])
  t.equal(sha256(one), sha256(two))
  t.equal(load(one).explicitOwners, false)
})

t.test('what fails leaves nothing behind', async t => {
  const { blobs, out } = made(t)
  const layer = path.join(out, 'layer.tar')
  writeFileSync(layer, tarBytes([{ name: 'x', body: Buffer.alloc(5000, 1) }]).subarray(0, 3000))
  const cases: [string[], RegExp][] = [
    [['-t', 'tar-rafs', layer], /TAR_INVALID/],
    [['-t', 'tar-rafs', '--fs-version', '5', '--encrypt', layer], /--encrypt needs RAFS v6.*USAGE/],
    [['--batch-size', '0x200000', out], /at most the chunk size.*USAGE/],
    [['--blob-id', 'short', out], /64 lower-case hex digits.*USAGE/],
    [['--features', 'zran', out], /--features zran.*USAGE/],
    [['--chunk-dict', 'registry=x', out], /USAGE/],
    [['--blob-cache-dir', out, out], /--blob-cache-dir comes with a later release.*UNIMPLEMENTED/],
  ]
  for (const [line, sentence] of cases) {
    const { code, stderr } = await runProgram(t, 'nydus-image', ['create', '-D', blobs, ...line])
    t.not(code, 0)
    t.match(stderr, sentence)
  }
  t.same(readdirSync(blobs), [])
})
