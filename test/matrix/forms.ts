/**
 * Every form that `nydus-image create` and `merge` write of two layers full of awkward files, built twice: both runs give
 * the same bytes, `check` finds nothing, the unpacked tree and what the kernel shows are the source's. Takes about ten
 * minutes, so it is no part of `npm test`, which has some of the forms: `npm run matrix [WORD …]`, where all words must
 * stand in the name of a form (`v6 zstd 64K batch`).
 */
import { linkSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { OpenBootstrap } from '../../src/bin/nydus-image/open-image.js'
import { encodeImage } from '../../src/erofs/encode-image.js'
import { runProgram } from '../helpers/command-line.js'
import { erofsMissing } from '../helpers/erofs-image.js'
import { withKernelMount } from '../helpers/kernel-mount.js'
import { fixturesDirectory } from '../helpers/rafs-fixtures.js'
import { rootMissing, scratch } from '../helpers/scratch.js'
import { checkTree } from '../helpers/supervised.js'

interface Form {
  readonly name: string
  readonly version: '5' | '6'
  readonly kind: Kind
  readonly options: readonly string[]
}
type Kind = 'plain' | 'inline' | 'batch'

const CHUNK_SIZES = { '1M': 1 << 20, '64K': 1 << 16, '4K': 1 << 12 }
const PERFECT = '1684 entries, 0 differences'

/** A version 5 image has no batches. */
const kindsOf = (version: '5' | '6'): readonly Kind[] =>
  version === '5' ? ['plain', 'inline'] : ['plain', 'inline', 'batch']

function* allForms(): Generator<Form> {
  for (const version of ['5', '6'] as const)
    for (const compressor of ['none', 'lz4_block', 'zstd'])
      for (const [size, bytes] of Object.entries(CHUNK_SIZES))
        for (const kind of kindsOf(version)) {
          const options = ['--fs-version', version, '--compressor', compressor, '--chunk-size', hex(bytes)]
          if (kind === 'inline') options.push('--blob-inline-meta')
          if (kind === 'batch') options.push('--batch-size', hex(Math.max(4096, bytes / 4)))
          yield { name: `v${version} ${compressor} ${size} ${kind}`, version, kind, options }
        }
}

const hex = (bytes: number): string => `0x${bytes.toString(16)}`

const fixtures = fixturesDirectory() ?? ''
const skip = rootMissing || (fixtures === '' ? 'needs the shared fixtures' : false)
const layers = { lower: 'torture/lower.tar.gz', upper: 'torture/upper.tar.gz' }
const counts = { images: 0, mounted: 0 }

async function run(t: Test, ...args: string[]): Promise<string> {
  const { code, stderr, stdout } = await runProgram(t, 'nydus-image', args)
  if (code !== 0) throw new Error(`nydus-image ${args.join(' ')}: exit ${code}, ${stderr}`)
  return stdout
}

/** Builds a layer in a directory of its own. @returns its bootstrap, or the blob that it is in */
async function create(
  t: Test,
  directory: string,
  layer: keyof typeof layers,
  form: Form,
  more: string[] = [],
): Promise<string> {
  mkdirSync(directory)
  const inline = form.kind === 'inline'
  const bootstrap = path.join(directory, 'boot')
  const source = path.join(fixtures, layers[layer])
  const places = ['--blob-dir', directory, ...(inline ? [] : ['--bootstrap', bootstrap])]
  await run(t, 'create', '--type', 'targz-rafs', source, ...places, ...form.options, ...more)
  const [blob = ''] = readdirSync(directory).filter(name => name !== 'boot')
  return inline ? path.join(directory, blob) : bootstrap
}

/** The image in both ways. All blobs of a way lie in its directory. */
async function build(t: Test, directory: string, form: Form) {
  const at = (name: string): string => path.join(directory, name)
  mkdirSync(directory)
  const lower = await create(t, at('lower'), 'lower', form)
  const upper = await create(t, at('upper'), 'upper', form)
  const merged = at('merged.boot')
  await run(t, 'merge', lower, upper, '--bootstrap', merged)
  const child = await create(t, at('child'), 'upper', form, ['--parent-bootstrap', lower])
  return {
    merge: { bootstrap: merged, blobs: [at('lower'), at('upper')] },
    parent: { bootstrap: child, blobs: [at('lower'), at('child')] },
  }
}

/** Every file below, by its path. */
const filesOf = (directory: string): Map<string, Buffer> =>
  new Map(
    readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile())
      .map(entry => path.join(entry.parentPath, entry.name))
      .sort()
      .map(file => [path.relative(directory, file), readFileSync(file)]),
  )

/** For a kernel: one that stands in a blob does not know the id of that blob, and is encoded again with it. */
function bootstrapOf(file: string): Buffer {
  if (file.endsWith('boot')) return readFileSync(file)
  const opened = OpenBootstrap.open(file)
  try {
    return encodeImage(opened.load()).bytes
  } finally {
    opened.close()
  }
}

async function inspect(t: Test, form: Form, image: { bootstrap: string; blobs: string[] }): Promise<void> {
  counts.images++
  const directory = scratch(t)
  const blobs = path.join(directory, 'blobs')
  mkdirSync(blobs)
  for (const from of image.blobs)
    for (const name of readdirSync(from))
      if (name !== 'boot') linkSync(path.join(from, name), path.join(blobs, name))
  const stored = ['--blob-dir', blobs]
  t.match(await run(t, 'check', image.bootstrap, ...stored), /.../, 'checked')
  const tree = path.join(directory, 'tree')
  await run(t, 'unpack', image.bootstrap, ...stored, '--output-dir', tree)
  t.equal(await checkTree(fixtures, tree), PERFECT, 'unpacked')
  rmSync(tree, { recursive: true })
  if (form.version === '5' || erofsMissing !== false) return
  const bytes = bootstrapOf(image.bootstrap)
  const seen = await withKernelMount(t, { directory, blobs, bytes }, target => checkTree(fixtures, target))
  t.equal(seen, PERFECT, 'by the kernel')
  counts.mounted++
}

// Of each form; all of them have no limit.
const timeout = 300_000
t.setTimeout(0)
const words = process.argv.slice(2)
for (const form of allForms()) {
  const parts = form.name.split(' ')
  if (!words.every(word => parts.includes(word))) continue
  t.test(form.name, { skip, timeout }, async t => {
    const directory = scratch(t)
    const [one, two] = ['one', 'two'].map(name => path.join(directory, name)) as [string, string]
    const [image] = await Promise.all([build(t, one, form), build(t, two, form)])
    const [first, second] = [filesOf(one), filesOf(two)]
    t.strictSame([...first.keys()], [...second.keys()])
    const differing = [...first].filter(([name, bytes]) => !second.get(name)?.equals(bytes))
    t.strictSame(
      differing.map(([name]) => name),
      [],
      'two runs give the same bytes',
    )
    for (const [way, made] of Object.entries(image)) await t.test(way, t => inspect(t, form, made))
  })
}
t.teardown(() => t.comment(`${counts.images} images checked and unpacked, ${counts.mounted} mounted`))
