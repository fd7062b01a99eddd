import { execFile, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import { isFault } from '../../src/common/fault.js'
import type { DirectoryInode, ImageChunk, ImageInode } from '../../src/erofs/image-tree.js'
import { LayerTree } from '../../src/image/build/layer-tree.js'
import { DEFAULT_LIMITS } from '../../src/image/tar/limits.js'
import { readTar } from '../../src/image/tar/tar-reader.js'
import { tarArchive } from '../helpers/random-tar.js'
import { rootMissing, scratch } from '../helpers/scratch.js'
import { pieces } from '../helpers/tar-bytes.js'

/** What containerd made of an archive (test/conformance/containerd/applytar). */
interface Applied {
  nodes: Node[] | null
  error: string
}

interface Node {
  /** Hex, as names are bytes. */
  path: string
  type: string
  mode: number
  uid: number
  gid: number
  sec: number
  nsec: number
  size: number
  content: string
  rdev: number
  inode: number
  xattrs: Record<string, string>
}

const RUNS = Number(process.env['NYDUS_TAR_RUNS'] ?? 1500)
const go = ['go', '/usr/local/go/bin/go'].find(name => spawnSync(name, ['version']).status === 0)

t.test('layers have the tree that containerd makes of them', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  const applytar = path.join(directory, 'applytar')
  const sources = path.resolve('test/conformance/containerd')
  const built =
    go !== undefined &&
    spawnSync(go, ['build', '-C', sources, '-o', applytar, './applytar'], {
      encoding: 'utf8',
      env: { ...process.env, GOWORK: 'off' },
    })
  if (built === false || built.status !== 0) {
    t.pass('containerd is not at hand', {
      skip: built === false ? 'needs go' : `go: ${built.stderr.slice(0, 200)}`,
    })
    return
  }
  const archives = fc.sample(tarArchive, { numRuns: RUNS, seed: 20 })
  const files = archives.map((bytes, i) => path.join(directory, `${i}.tar`))
  for (const [i, bytes] of archives.entries()) writeFileSync(files[i] ?? '', bytes)
  const target = path.join(directory, 'applied')
  mkdirSync(target)
  const { stdout } = await promisify(execFile)(applytar, [target, ...files], { maxBuffer: 1 << 30 })
  const counts = { equal: 0, refusedByBoth: 0, moreHere: 0, unsafe: 0 }
  for (const [i, line] of stdout.trimEnd().split('\n').entries()) {
    const applied = JSON.parse(line) as Applied
    const bytes = archives[i] ?? Buffer.alloc(0)
    const ours = await treeOf(bytes)
    if (applied.error !== '') {
      counts[Array.isArray(ours) ? 'moreHere' : 'refusedByBoth']++
    } else if (Array.isArray(ours)) {
      const theirs = describeApplied(applied.nodes ?? [], ours)
      if (ours.join('\n') === theirs.join('\n')) counts.equal++
      else t.same(ours, theirs, `archive ${i}: ${bytes.toString('base64').replace(/A{20,}/g, '…')}`)
    } else if (ours.unsafe) {
      counts.unsafe++
    } else {
      t.fail(`archive ${i} is refused here only: ${ours.message}`, { names: names(bytes) })
    }
  }
  t.comment(JSON.stringify(counts))
  t.ok(counts.equal > RUNS / 4, 'many were read by both')
  t.ok(counts.refusedByBoth > RUNS / 50, 'some were refused by both')
})

function names(bytes: Buffer): string {
  return bytes.toString('latin1').replace(/\0+/g, ' ').slice(0, 2000)
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** A line for each entry of the tree, or why there is none. */
async function treeOf(bytes: Uint8Array): Promise<string[] | { unsafe: boolean; message: string }> {
  const tree = new LayerTree(DEFAULT_LIMITS)
  const directories: (readonly string[])[] = []
  try {
    for await (const entry of readTar(pieces(bytes, 700))) {
      const body: Uint8Array[] = []
      if (entry.type === 'regular') for await (const piece of entry.body) body.push(piece)
      if (entry.type === 'directory') directories.push(entry.path)
      // The tree keeps chunks as they are given to it.
      tree.add(entry, [{ digest: sha256(Buffer.concat(body)) } as ImageChunk])
    }
  } catch (err) {
    if (isFault(err)) return { unsafe: err.code === 'TAR_UNSAFE', message: err.message }
    throw err
  }
  const lines = describeOwn(tree.root, '', new Map())
  // containerd sets the times of directories at the end, also of what took the place of one.
  const kept = directories.every(path => {
    let inode: ImageInode | undefined = tree.root
    for (const part of path) inode = inode?.type === 'directory' ? inode.children.get(part) : undefined
    return inode?.type === 'directory'
  })
  return kept ? lines : lines.map(withoutTime)
}

function describeOwn(directory: DirectoryInode, prefix: string, links: Map<ImageInode, string>): string[] {
  return [...directory.children]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([name, inode]) => {
      const file = `${prefix}${name}`
      const first = links.get(inode) ?? file
      links.set(inode, first)
      const { mode, uid, gid } = inode
      const xattrs = [...(inode.xattrs ?? [])].filter(([key]) => !key.startsWith('trusted.'))
      const words = [
        hex(file),
        inode.type,
        // Links have no mode on Linux.
        inode.type === 'symlink' ? 0o777 : mode,
        uid,
        gid,
        // What came to be without an entry has the time of its making.
        ...(inode.type === 'directory' && inode.implicit
          ? ['any']
          : [bounded(inode.mtimeSec, inode.mtimeNsec)]),
        inode.type === 'regular' ? `${inode.sizeBytes} ${inode.chunks[0]?.digest ?? ''} ${hex(first)}` : '',
        inode.type === 'symlink' ? Buffer.from(inode.target).toString('hex') : '',
        'major' in inode ? `${inode.major}:${inode.minor}` : '',
        // Attributes of links are not looked at.
        inode.type === 'symlink'
          ? ''
          : xattrs.map(([key, value]) => `${key}=${Buffer.from(value).toString('hex')}`).sort(),
      ]
      const own = words.join(' ')
      return [own, ...(inode.type === 'directory' ? describeOwn(inode, `${file}/`, links) : [])]
    })
}

/** The line of an entry whose time is not compared. */
const withoutTime = (line: string): string => line.split(' ').with(5, 'any').join(' ')

const hex = (latin1: string): string => Buffer.from(latin1, 'latin1').toString('hex')

/** containerd sets times before 1970 and past 2262 to 0. */
function bounded(sec: number, nsec: number): string {
  const far = sec > 9_223_372_036 || (sec === 9_223_372_036 && nsec > 854_775_807)
  return sec < 0 || far ? '0.0' : `${sec}.${nsec}`
}

function describeApplied(nodes: Node[], ours: string[]): string[] {
  const untimed = new Set(ours.filter(line => line.split(' ')[5] === 'any').map(line => line.split(' ')[0]))
  const first = new Map<number, string>()
  const ordered = nodes.toSorted((a, b) => (order(a.path) < order(b.path) ? -1 : 1))
  return ordered.map(node => {
    const { type, mode, uid, gid } = node
    if (!first.has(node.inode)) first.set(node.inode, node.path)
    const major = Math.floor(node.rdev / 256) % 4096
    const minor = (node.rdev % 256) + Math.floor(node.rdev / 2 ** 20) * 256
    const device = type === 'charDevice' || type === 'blockDevice'
    return [
      node.path,
      type,
      mode,
      uid,
      gid,
      untimed.has(node.path) ? 'any' : `${node.sec}.${node.nsec}`,
      type === 'regular' ? `${node.size} ${node.content} ${first.get(node.inode)}` : '',
      type === 'symlink' ? node.content : '',
      device ? `${major}:${minor}` : '',
      type === 'symlink'
        ? ''
        : Object.entries(node.xattrs)
            .map(([key, value]) => `${key}=${value}`)
            .sort(),
    ].join(' ')
  })
}

/** Directories before their siblings' longer names, as the tree is walked here. */
const order = (path: string): string => Buffer.from(path, 'hex').toString('latin1').replaceAll('/', '\0')
