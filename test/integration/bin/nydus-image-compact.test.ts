import { createHash } from 'node:crypto'
import { existsSync, linkSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { loadBlobs } from '../../../src/erofs/load-image.js'
import { mountErofs, unmount } from '../../../src/native/mount.js'
import { runProgram } from '../../helpers/command-line.js'
import { erofsMissing } from '../../helpers/erofs-image.js'
import { scratch } from '../../helpers/scratch.js'

const MiB = 1 << 20

/** Bytes that are the same for a name, and do not compress. */
function noise(name: string, size: number): Buffer {
  const parts: Buffer[] = []
  for (let made = 0; made < size; made += 32)
    parts.push(createHash('sha256').update(`${name} ${made}`).digest())
  return Buffer.concat(parts).subarray(0, size)
}

async function nydusImage(t: Test, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runProgram(t, 'nydus-image', args)
  t.equal(code, 0, `${args[0]} ${stderr}`)
  return stdout
}

/** Two layers, merged; the upper deletes most of what the lower has. Returns bootstrap and directory of blobs. */
async function makeImage(t: Test, base: string, options: string[]): Promise<{ boot: string; blobs: string }> {
  const layers: Record<string, Buffer>[] = [
    {
      gone: noise('gone', 3 * MiB),
      keep: noise('keep', 70_000),
      small: noise('s', 900),
      'd-tiny': noise('t', 10),
    },
    {
      '.wh.gone': Buffer.alloc(0),
      more: noise('more', 50_000),
      zero: Buffer.alloc(5000),
      again: noise('keep', 70_000),
    },
  ]
  const blobs = path.join(base, 'blobs')
  mkdirSync(blobs)
  const boots: string[] = []
  for (const [index, files] of layers.entries()) {
    const tree = path.join(base, `tree-${index}`)
    mkdirSync(tree)
    for (const [name, bytes] of Object.entries(files)) writeFileSync(path.join(tree, name), bytes)
    if (index === 0) linkSync(path.join(tree, 'keep'), path.join(tree, 'linked'))
    const boot = path.join(base, `layer-${index}.boot`)
    await nydusImage(t, 'create', '--whiteout-spec', 'none', ...options, '-B', boot, '-D', blobs, tree)
    boots.push(boot)
  }
  const boot = path.join(base, 'image.boot')
  await nydusImage(t, 'merge', ...boots, '-B', boot)
  return { boot, blobs }
}

async function unpacked(t: Test, boot: string, blobs: string): Promise<Buffer> {
  const tar = `${boot}.tar`
  await nydusImage(t, 'unpack', boot, '-D', blobs, '-o', tar)
  return readFileSync(tar)
}

const blobIds = (boot: string): string[] =>
  loadBlobs(new MemorySource(readFileSync(boot))).blobs.map(({ id }) => id)

const FORMS: Record<string, string[]> = {
  plain: [],
  v5: ['--fs-version', '5', '--compressor', 'lz4_block', '--digester', 'sha256'],
  batch: ['--batch-size', '0x40000', '--features', 'blob-toc'],
  encrypted: ['--encrypt', '--compressor', 'none'],
}

for (const [form, options] of Object.entries(FORMS)) {
  t.test(`${form}: the same tree over blobs without what no file uses`, async t => {
    const base = scratch(t)
    const { boot, blobs } = await makeImage(t, base, options)
    const before = blobIds(boot)
    t.equal(before.length, 2)
    const tree = await unpacked(t, boot, blobs)
    const out = path.join(base, 'image.bootstrap.compact')
    const json = path.join(base, 'out.json')
    const apart = ['--min-used-ratio', '50', '--compact-blob-size', '0']
    t.match(await nydusImage(t, 'compact', '-B', boot, '-D', blobs, ...apart, '-J', json), /^1 of 2 blobs/)
    const after = blobIds(out)
    const fresh = after.filter(id => !before.includes(id))
    t.equal(fresh.length, 1, 'the blob that is mostly unused was written anew, the other not')
    t.ok(statSync(path.join(blobs, fresh[0]!)).size < 150_000)
    t.equal(
      createHash('sha256')
        .update(await unpacked(t, out, blobs))
        .digest('hex'),
      createHash('sha256').update(tree).digest('hex'),
    )
    t.match(JSON.parse(readFileSync(json, 'utf8')), { blobs: after, bootstrap: out })
    await nydusImage(t, 'check', out, '--blob-dir', blobs)

    const one = path.join(base, 'one')
    t.match(await nydusImage(t, 'compact', '-B', boot, '-D', blobs, '-O', one), /^2 of 2 blobs/)
    t.equal(blobIds(one).length, 1, 'small blobs become one')
    t.ok((await unpacked(t, one, blobs)).equals(tree))
    await nydusImage(t, 'check', one, '--blob-dir', blobs)
    t.equal(readdirSync(blobs).filter(name => name.startsWith('.')).length, 0, 'nothing half-written is left')
  })
}

t.test('images that are not worth it stay as they are', async t => {
  const base = scratch(t)
  const { boot, blobs } = await makeImage(t, base, [])
  const out = path.join(base, 'out')
  const few = ['--layers-to-compact', '3', '--min-used-ratio', '99']
  t.match(await nydusImage(t, 'compact', '-B', boot, '-D', blobs, '-O', out, ...few), /^0 of 2 blobs/)
  t.same(blobIds(out), blobIds(boot))
  const dict = [
    '--chunk-dict',
    path.join(base, 'layer-0.boot'),
    '--min-used-ratio',
    '99',
    '--compact-blob-size',
    '0',
  ]
  await nydusImage(t, 'compact', '-B', boot, '-D', blobs, '-O', out, ...dict)
  t.same(blobIds(out)[0], blobIds(boot)[0], 'blobs of a dictionary are left alone')
  const wrong = await runProgram(t, 'nydus-image', [
    'compact',
    '-B',
    boot,
    '-D',
    blobs,
    '--min-used-ratio',
    '100',
  ])
  t.match(wrong, { code: 2, stderr: /0 to 99/ })
})

t.test('a dictionary of many images spares their chunks in the next', async t => {
  const base = scratch(t)
  const { boot, blobs } = await makeImage(t, base, [])
  const dict = path.join(base, 'dict')
  const layers = [0, 1].map(index => path.join(base, `layer-${index}.boot`))
  t.match(await nydusImage(t, 'chunkdict', 'generate', '-B', dict, ...layers, boot), /^\d+ chunks of 2 blobs/)
  const tree = path.join(base, 'tree')
  mkdirSync(tree)
  writeFileSync(path.join(tree, 'gone'), noise('gone', 3 * MiB))
  writeFileSync(path.join(tree, 'new'), noise('new', 1000))
  const next = path.join(base, 'next')
  await nydusImage(t, 'create', '--chunk-dict', `bootstrap=${dict}`, '-B', next, '-D', blobs, tree)
  const ids = blobIds(next)
  t.equal(ids.length, 2, 'the blob of the file that is known, and the own one')
  const own = ids.find(id => !blobIds(dict).includes(id))
  t.ok(statSync(path.join(blobs, own!)).size < 10_000)
  await nydusImage(t, 'check', next, '--blob-dir', blobs)
  await unpacked(t, next, blobs)
  const v5 = path.join(base, 'v5')
  await nydusImage(t, 'create', '--fs-version', '5', '-B', v5, '-D', blobs, tree)
  t.match(await runProgram(t, 'nydus-image', ['chunkdict', 'generate', '-B', dict, boot, v5]), {
    code: 4,
    stderr: /v5/,
  })
})

t.test('an image as one disk', { skip: erofsMissing }, async t => {
  const base = scratch(t)
  const { boot, blobs } = await makeImage(t, base, [])
  const disk = path.join(base, 'disk')
  const stdout = await nydusImage(t, 'export', '--block', '-B', boot, '-D', blobs, '-O', disk, '--verity')
  const [, dataBlocks, hashOffset, root] =
    /--data-blocks (\d+) --hash-offset (\d+) ([0-9a-f]{64})/.exec(stdout) ?? []
  const bytes = readFileSync(disk)
  t.equal(Number(hashOffset), Number(dataBlocks) * 4096)
  t.equal(verityRoot(bytes.subarray(0, Number(hashOffset)), bytes.subarray(Number(hashOffset))), root)
  const target = path.join(base, 'mount')
  mkdirSync(target)
  await mountErofs({ source: disk, devices: [], target, timeoutMs: 10_000 })
  try {
    t.same(readdirSync(target).sort(), ['again', 'd-tiny', 'keep', 'linked', 'more', 'small', 'zero'])
    t.ok(readFileSync(path.join(target, 'keep')).equals(noise('keep', 70_000)))
    t.ok(readFileSync(path.join(target, 'more')).equals(noise('more', 50_000)))
  } finally {
    await unmount(target, { timeoutMs: 10_000 })
  }
  await nydusImage(t, 'export', '--block', '-B', boot, '-D', blobs)
  t.ok(existsSync(path.join(blobs, 'image.boot.disk')))
  t.match(await runProgram(t, 'nydus-image', ['export', '-B', boot, '-D', blobs]), {
    code: 2,
    stderr: /--block/,
  })
})

/** The root hash, by way of the whole tree, which must stand in `tree` with its top level first. */
function verityRoot(data: Buffer, tree: Buffer): string {
  const levels: Buffer[] = []
  for (let below = data; below.length > 4096 || levels.length === 0;) {
    const hashes: Buffer[] = []
    for (let at = 0; at < below.length; at += 4096)
      hashes.push(
        createHash('sha256')
          .update(below.subarray(at, at + 4096))
          .digest(),
      )
    below = Buffer.concat([
      Buffer.concat(hashes),
      Buffer.alloc((4096 - ((hashes.length * 32) % 4096)) % 4096),
    ])
    levels.unshift(below)
  }
  if (!Buffer.concat(levels).equals(tree)) return 'another tree'
  return createHash('sha256').update(levels[0]!).digest('hex')
}
