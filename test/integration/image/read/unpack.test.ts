import { execFileSync, spawnSync } from 'node:child_process'
import {
  createWriteStream,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { LocalFsBackend } from '../../../../src/backend/localfs.js'
import { FileSource } from '../../../../src/common/byte-source.js'
import type {
  DirectoryInode,
  ImageInode,
  InodeAttributes,
  RafsImage,
} from '../../../../src/erofs/image-tree.js'
import { loadImage } from '../../../../src/erofs/load-image.js'
import { checkBlob } from '../../../../src/image/read/check-blob.js'
import { checkBootstrap } from '../../../../src/image/read/check.js'
import { ChunkReader } from '../../../../src/image/read/chunk-reader.js'
import { unpackToDirectory } from '../../../../src/image/read/unpack-directory.js'
import { unpackToTar } from '../../../../src/image/read/unpack-tar.js'
import { walkTree } from '../../../../src/image/read/walk-tree.js'
import { makeNode, setTimes } from '../../../../src/native/make-file.js'
import { readXattrs, setXattr } from '../../../../src/native/xattr.js'
import { runProgram } from '../../../helpers/command-line.js'
import { MemoryBlobs } from '../../../helpers/memory-blobs.js'
import { buildImage } from '../../../helpers/rafs-image.js'
import { startFaultRegistry } from '../../../helpers/registry.js'
import { fixturesDirectory } from '../../../helpers/rafs-fixtures.js'
import { rootMissing, scratch } from '../../../helpers/scratch.js'

const fixtures = fixturesDirectory()
const calls = { makeNode, setXattr, setTimes }

const forms = fixtures === undefined ? [] : readdirSync(path.join(fixtures, 'rafs'))
if (fixtures === undefined)
  t.test('images of the reference tools', { skip: 'no ../shared/fixtures' }, async () => {})
for (const form of forms) {
  t.test(`${form} is sound, and unpacks to the tree of its sources`, { skip: rootMissing }, async t => {
    const directory = path.join(scratch(t), 'tree')
    const source = new FileSource(path.join(fixtures ?? '', 'rafs', form, 'merged.boot'))
    const backend = new LocalFsBackend({ dir: path.join(fixtures ?? '', 'rafs', form, 'blobs') })
    t.teardown(async () => {
      source.close()
      await backend.close()
    })
    const checked = checkBootstrap(source)
    t.equal(checked.names, 1685)
    for (const blob of checked.blobs) await checkBlob(blob, backend.open(blob.entry.blobId))
    mkdirSync(directory)
    await unpackToDirectory(loadImage(source), new ChunkReader(backend), directory, calls)
    const tree = path.join(fixtures ?? '', 'check_tree.py')
    const expected = path.join(fixtures ?? '', 'torture/expected.jsonl')
    const compared = spawnSync('python3', [tree, directory, expected], { encoding: 'utf8' })
    t.match(compared.stdout, /1684 entries, 0 differences/)
  })
}

const plain: InodeAttributes = { mode: 0o644, uid: 0, gid: 0, mtimeSec: 1_700_000_000, mtimeNsec: 0 }
const empty = { ...plain, type: 'regular', sizeBytes: 0, chunks: [] } as const
const longName = 'n'.repeat(120)

function awkwardImage(): RafsImage {
  const linked = { ...empty, mode: 0o4711 }
  const inner: [string, ImageInode][] = [
    ['linked too', linked],
    ['no-utf8-\xff\xfe', empty],
    [`${longName}\xff${longName}`, { ...empty, mtimeNsec: 999_999_999 }],
    ['grün'.replace('ü', '\xc3\xbc'), empty],
  ]
  const entries: [string, ImageInode][] = [
    ['before 1970', { ...empty, mtimeSec: -2, mtimeNsec: 500_000_001 }],
    ['after 2038', { ...empty, mtimeSec: 2 ** 32 }],
    ['at 0', { ...empty, mtimeSec: 0 }],
    ['owner', { ...empty, uid: 2 ** 32 - 2, gid: 3_000_000 }],
    [
      'xattrs',
      {
        ...empty,
        xattrs: new Map([
          ['user.empty', new Uint8Array(0)],
          ['trusted.b', Uint8Array.of(0, 255)],
        ]),
      },
    ],
    [
      'link',
      {
        ...plain,
        mode: 0o777,
        type: 'symlink',
        target: Buffer.from('/no/where/\xff', 'latin1'),
        mtimeNsec: 7,
      },
    ],
    ['null', { ...plain, type: 'charDevice', major: 1, minor: 3 }],
    ['big device', { ...plain, type: 'blockDevice', major: 259, minor: 300_000 }],
    ['pipe', { ...plain, mode: 0o600, type: 'fifo' }],
    ['linked', linked],
    [
      'dir',
      { ...plain, mode: 0o1777, mtimeNsec: 5, type: 'directory', implicit: false, children: new Map(inner) },
    ],
  ]
  const root: DirectoryInode = {
    ...plain,
    mode: 0o750,
    type: 'directory',
    implicit: false,
    children: new Map(entries),
  }
  return {
    version: 6,
    chunkSize: 4096,
    compressor: 'none',
    digester: 'blake3',
    explicitOwners: true,
    blobs: [],
    root,
    prefetch: [],
  }
}

/** Every difference between a tree on disk and an image. */
function differences(directory: string, image: RafsImage): string[] {
  const found: string[] = []
  for (const { path: name, inode } of walkTree(image.root)) {
    const file = Buffer.concat([Buffer.from(`${directory}/`), Buffer.from(name, 'latin1')])
    const facts = lstatSync(file, { bigint: true })
    const compare = (what: string, got: unknown, want: unknown): void => {
      if (JSON.stringify(got) !== JSON.stringify(want))
        found.push(`${name} ${what}: ${String(got)}, not ${String(want)}`)
    }
    if (inode.type !== 'symlink') compare('mode', Number(facts.mode) & 0o7777, inode.mode)
    compare('uid', Number(facts.uid), inode.uid)
    compare('gid', Number(facts.gid), inode.gid)
    compare(
      'mtime',
      String(facts.mtimeNs),
      String(BigInt(inode.mtimeSec) * 1_000_000_000n + BigInt(inode.mtimeNsec)),
    )
    if (inode.type === 'symlink')
      compare(
        'target',
        readlinkSync(file, 'buffer').toString('hex'),
        Buffer.from(inode.target).toString('hex'),
      )
    if ('major' in inode) {
      const device = Number(facts.rdev)
      compare(
        'device',
        [(device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00)],
        [inode.major, inode.minor],
      )
    }
    const hex = (xattrs?: ReadonlyMap<string, Uint8Array>): string[][] =>
      [...(xattrs ?? [])].map(([key, value]) => [key, Buffer.from(value).toString('hex')]).sort()
    compare('xattrs', hex(readXattrs(file)), hex(inode.xattrs))
  }
  const inodes = ['linked', 'dir/linked too'].map(name => lstatSync(path.join(directory, name)).ino)
  if (inodes[0] !== inodes[1]) found.push('the hard link is a copy')
  return found
}

t.test('an awkward tree in a directory', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const image = awkwardImage()
  const mask = process.umask(0)
  t.teardown(() => process.umask(mask))
  const socket: ImageInode = { ...plain, type: 'socket' }
  image.root.children.set('socket', socket)
  const unpacked = await unpackToDirectory(
    image,
    new ChunkReader(new MemoryBlobs(new Map())),
    directory,
    calls,
  )
  t.match(unpacked, { entries: 17, sockets: 0 })
  t.same(differences(directory, image), [])
  t.ok(lstatSync(path.join(directory, 'socket')).isSocket())
})

t.test('an awkward tree as an archive, for GNU tar', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const image = awkwardImage()
  image.root.children.set('socket', { ...plain, type: 'socket' })
  const archive = path.join(directory, 'a.tar')
  const stream = createWriteStream(archive)
  const write = (bytes: Uint8Array) => new Promise<void>(resolve => void stream.write(bytes, () => resolve()))
  const unpacked = await unpackToTar(image, new ChunkReader(new MemoryBlobs(new Map())), write)
  await new Promise<void>(resolve => stream.end(resolve))
  t.match(unpacked, { entries: 16, sockets: 1 })
  const tree = path.join(directory, 'tree')
  mkdirSync(tree)
  const options = ['--xattrs', '--xattrs-include=*', '--numeric-owner', '--same-owner', '-p']
  execFileSync('tar', ['-C', tree, ...options, '-xf', archive], { stdio: ['ignore', 'ignore', 'pipe'] })
  image.root.children.delete('socket')
  t.same(differences(tree, image), [])
})

t.test('the command: whole targets or none', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const data = Buffer.from('hello\n'.repeat(2000))
  const built = buildImage([{ name: 'file', mode: 0o100644, data }])
  const bootstrap = path.join(directory, 'boot')
  const blob = path.join(directory, 'blob')
  writeFileSync(bootstrap, built.bootstrap)
  writeFileSync(blob, built.blob)
  const run = (...args: string[]) => runProgram(t, 'nydus-image', ['unpack', bootstrap, ...args])
  const made = path.join(directory, 'made')
  t.match(await run('--blob', blob, '--output-dir', made), { code: 0, stderr: '' })
  t.equal(readFileSync(path.join(made, 'file'), 'utf8'), data.toString())
  t.match(await run('--blob', blob, '--output-dir', made), { code: 6, stderr: /exists and is not empty/ })
  const tar = path.join(directory, 'a.tar')
  t.match(await run('--blob', blob, '--output', tar), { code: 0, stderr: '' })
  t.equal(execFileSync('tar', ['-xOf', tar, 'file'], { encoding: 'utf8' }), data.toString())

  const damaged = path.join(directory, 'damaged')
  writeFileSync(damaged, built.blob.fill(0, 0, 20))
  const other = path.join(directory, 'other')
  for (const [option, target] of [
    ['--output', `${other}.tar`],
    ['--output-dir', other],
  ] as const) {
    t.match(await run('--blob', damaged, option, target), { code: 9, stderr: /CHUNK_/ })
    t.notOk(existsSync(target))
  }
  const registry = await startFaultRegistry(t)
  registry.addBlob(readFileSync(blob), { as: `sha256:${built.blobId}` })
  const config = path.join(directory, 'boot.json')
  writeFileSync(config, JSON.stringify({ scheme: 'http', host: registry.host, repo: 'app' }))
  const fetched = await run('--backend-type', 'registry', '--backend-config-file', config, '--output', '-')
  t.match(fetched, { code: 0, stderr: '' })
  t.match(fetched.stdout, data.toString())

  t.match(await run('--output', tar), { code: 2, stderr: /--blob-dir/ })
  t.match(await run('--backend-type', 'localfs', '--output', tar), { code: 2, stderr: /--blob-dir/ })
  const left = readdirSync(directory).sort()
  t.same(left, ['a.tar', 'blob', 'boot', 'boot.json', 'damaged', 'made'])
})
