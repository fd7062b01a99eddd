/**
 * nydusify on an image of many small files, and on one of a single large one: how long `convert`, `check`,
 * `convert --reverse` and the comparison of what comes back take, and their peak memory. The argument is the number of
 * files (200,000), `large` (a file of 4 GiB of holes and some data) or `random` (4 GiB of random data); after it come options
 * of `convert`.
 */
import { spawnSync } from 'node:child_process'
import { createHash, randomFillSync } from 'node:crypto'
import { createReadStream, createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { rename, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { encodeTarHeader, tarEnd, tarPadding, type TarItem } from '../src/image/read/encode-tar.js'
import { machineLine } from './figures.js'

const MIB = 1 << 20
const LARGE_BYTES = 4 * 2 ** 30
const FILES_IN_DIRECTORY = 20
const MAX_SMALL_BYTES = 8000
const PROGRAM = path.resolve(import.meta.dirname, '../src/bin/nydusify.js')

const attributes = {
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtimeSec: 1_700_000_000,
  mtimeNsec: 0,
  linkName: '',
  major: 0,
  minor: 0,
}

/** Packages of small files in no order, as directories are read: one in twenty is a link, some have attributes. */
function* smallFiles(count: number): Generator<Uint8Array> {
  const binary = readFileSync(process.execPath)
  for (let i = 0; i < count; i++) {
    const file = scattered(i, count)
    const directory = `usr/lib/node_modules/package-${Math.floor(file / FILES_IN_DIRECTORY)}`
    const name = `${directory}/module-${file % FILES_IN_DIRECTORY}.js`
    if (file % FILES_IN_DIRECTORY === 7) {
      yield encodeTarHeader({ ...attributes, name, type: 'symlink', linkName: 'module-0.js', sizeBytes: 0 })
      continue
    }
    const start = (file * 479_001_599) % (binary.length - MAX_SMALL_BYTES)
    const body = binary.subarray(start, start + 100 + ((file * 104_729) % (MAX_SMALL_BYTES - 100)))
    const xattrs = new Map([['user.note', Buffer.from(String(file))]])
    yield* entry({ ...attributes, name, ...(file % 100 === 3 ? { xattrs } : {}) }, body)
  }
}

/** Each number below `count` once, near ones near each other. */
function scattered(index: number, count: number): number {
  const window = 1000
  const start = index - (index % window)
  const size = Math.min(window, count - start)
  return size === window ? start + ((index * 379) % window) : index
}

function* entry(item: Omit<TarItem, 'type' | 'sizeBytes'>, body: Uint8Array): Generator<Uint8Array> {
  yield encodeTarHeader({ ...item, type: 'regular', sizeBytes: body.length })
  yield body
  yield Buffer.alloc(tarPadding(body.length))
}

/** One file. A layer has no holes to speak of: they are zeros that compress. */
function* largeFile(random: boolean): Generator<Uint8Array> {
  yield encodeTarHeader({ ...attributes, name: 'large.img', type: 'regular', sizeBytes: LARGE_BYTES })
  const piece = Buffer.alloc(MIB)
  for (let at = 0; at < LARGE_BYTES; at += MIB) {
    if (random || at % (64 * MIB) === 0) yield randomFillSync(Buffer.allocUnsafe(MIB))
    else yield piece
  }
}

/** Gathers small pieces. */
function* archive(pieces: Iterable<Uint8Array>): Generator<Uint8Array> {
  let held: Uint8Array[] = []
  let bytes = 0
  for (const piece of [pieces, [tarEnd()]]) {
    for (const one of piece) {
      held.push(one)
      bytes += one.length
      if (bytes < MIB) continue
      yield Buffer.concat(held)
      held = []
      bytes = 0
    }
  }
  yield Buffer.concat(held)
}

/** An OCI layout with an image of one layer. */
async function writeLayout(directory: string, pieces: Iterable<Uint8Array>): Promise<void> {
  const blobs = path.join(directory, 'blobs/sha256')
  mkdirSync(blobs, { recursive: true })
  const plain = createHash('sha256')
  function* hashed(): Generator<Uint8Array> {
    for (const piece of archive(pieces)) {
      plain.update(piece)
      yield piece
    }
  }
  const partial = path.join(blobs, 'partial')
  await pipeline(Readable.from(hashed()), createGzip({ level: 1 }), createWriteStream(partial))
  const packed = createHash('sha256')
  for await (const piece of createReadStream(partial)) packed.update(piece as Buffer)
  const digest = packed.digest('hex')
  const { size } = await stat(partial)
  await rename(partial, path.join(blobs, digest))
  const put = async (mediaType: string, document: unknown): Promise<object> => {
    const bytes = Buffer.from(JSON.stringify(document))
    const hex = createHash('sha256').update(bytes).digest('hex')
    await writeFile(path.join(blobs, hex), bytes)
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length }
  }
  const type = 'application/vnd.oci.image'
  const config = await put(`${type}.config.v1+json`, {
    architecture: os.arch() === 'x64' ? 'amd64' : os.arch(),
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [`sha256:${plain.digest('hex')}`] },
  })
  const layers = [{ mediaType: `${type}.layer.v1.tar+gzip`, digest: `sha256:${digest}`, size }]
  const manifest = await put(`${type}.manifest.v1+json`, {
    schemaVersion: 2,
    mediaType: `${type}.manifest.v1+json`,
    config,
    layers,
  })
  await writeFile(path.join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  await writeFile(
    path.join(directory, 'index.json'),
    JSON.stringify({ schemaVersion: 2, manifests: [manifest] }),
  )
}

/** Runs nydusify in a process of its own and tells what that took. @throws when it fails */
function run(label: string, ...args: string[]): void {
  const started = performance.now()
  const report = `process.on('exit', () => {
    const { user, system } = process.cpuUsage()
    const peak = /VmHWM:\\s+([0-9]+)/.exec(require('fs').readFileSync('/proc/self/status', 'utf8'))[1]
    require('fs').writeSync(3, JSON.stringify({ cpu: (user + system) / 1e6, peak: peak / 1024 }))
  })`
  const preload = `data:text/javascript,${encodeURIComponent(
    `import{createRequire}from'node:module';const require=createRequire('/');${report}`,
  )}`
  const child = spawnSync(process.execPath, ['--import', preload, PROGRAM, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  })
  if (child.status !== 0) throw new Error(`nydusify ${args.join(' ')}: ${child.stderr}`)
  const { cpu, peak } = JSON.parse(child.output[3] ?? '') as { cpu: number; peak: number }
  const seconds = (performance.now() - started) / 1000
  process.stdout.write(
    `${label.padEnd(24)} ${seconds.toFixed(1).padStart(7)} s ${cpu.toFixed(1).padStart(7)} s of processors ` +
      `${peak.toFixed(0).padStart(5)} MiB\n`,
  )
}

async function main(what: string, options: readonly string[]): Promise<void> {
  const keep = process.env['NYDUS_BENCH_DIRECTORY']
  const directory = keep ?? mkdtempSync(path.join(os.tmpdir(), 'bench-many-files-'))
  const at = (name: string): string => path.join(directory, name)
  try {
    const pieces =
      what === 'large' || what === 'random' ? largeFile(what === 'random') : smallFiles(Number(what))
    await writeLayout(at('source'), pieces)
    process.stdout.write(`${what} ${options.join(' ')}: ${machineLine()}\n`)
    const from = ['--source', 'bench/files:plain', '--source-archive', at('source')]
    const nydus = ['bench/files:nydus', '--target-archive', at('nydus')]
    const work = ['--work-dir', at('work')]
    run('convert', 'convert', ...from, '--target', ...nydus, ...work, ...options)
    run('check', 'check', ...from, '--target', ...nydus, ...work)
    const image = ['--source', 'bench/files:nydus', '--source-archive', at('nydus')]
    const plain = ['--target', 'bench/files:again', '--target-archive', at('again')]
    run('reverse', 'convert', '--reverse', ...image, ...plain, ...work)
    run('check of the reversed', 'check', ...from, ...plain, ...work)
  } finally {
    if (keep === undefined) rmSync(directory, { recursive: true, force: true })
  }
}

const [what = '200000', ...options] = process.argv.slice(2)
await main(what, options)
