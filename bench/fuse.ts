/**
 * The FUSE server beside one in C that has all metadata in memory (`fuse/peer.c`), serving the same tree with as many
 * threads, and beside the file system that the tree lies on.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import { randomBytes } from 'node:crypto'
import { unmountBelow } from '../test/helpers/containerd.js'
import type { ChildImage } from '../test/helpers/fuse-child.js'
import { buildFuseImage } from '../test/helpers/fuse-image.js'
import { FuseServing } from '../test/helpers/fuse-serving.js'
import { byTurns, mebibytes, report, runCommand, timeCommand } from './figures.js'
import { dropPageCache, residentBytes, type Stage } from './stage.js'

const MIB = 2 ** 20
const BIG_BYTES = 256 * MIB
const WORKERS = 2
const READ_AHEAD_KB = 1024
const SOURCES = path.resolve(import.meta.dirname, '../../bench/fuse')
const MANY_DIRECTORIES = 1000
const FILES_EACH = 200

export async function benchFuse(stage: Stage, rounds: number): Promise<void> {
  const directory = path.join(stage.directory, 'fuse')
  const tree = path.join(directory, 'tree')
  makeTree(tree)
  const [load, peer] = ['load', 'peer'].map(name => compile(name, directory)) as [string, string]
  const image = buildFuseImage(directory, tree, '/', { options: ['--compressor', 'none'] })
  const peerMount = path.join(directory, 'mnt-peer')
  mkdirSync(peerMount)
  const serving = await serve(directory, image)
  // What it takes to walk is seen of one that has done nothing else.
  const walked = await serve(path.join(directory, 'walked'), { ...image, cache: `${image.cache}-walked` })
  const other = spawn(peer, [tree, peerMount, String(WORKERS), '0'], { stdio: ['ignore', 'pipe', 'inherit'] })
  try {
    await once(other.stdout, 'data')
    setReadAhead(peerMount)
    await runCommand('cmp', [path.join(serving.mountpoint, 'big'), path.join(tree, 'big')])

    const measure = (on: string, args: readonly string[]) => async () =>
      Number(await runCommand(load, [args[0] ?? '', path.join(on, args[1] ?? ''), ...args.slice(2)]))
    const against = async (name: string, unit: string, atLeast: number, ...args: string[]) => {
      const ours = measure(name.startsWith('C of') ? peerMount : serving.mountpoint, args)
      const theirs = measure(name.includes('of ext4') ? tree : peerMount, args)
      const { a, b } = await byTurns(rounds, ours, theirs)
      report({
        name,
        value: a / b,
        target: { atLeast },
        detail: `${a.toFixed(0)} of ${b.toFixed(0)} ${unit}`,
      })
    }
    await against('FUSE of C, 128 KiB in a row', 'MB/s', 0.85, 'sequential', 'big', '131072')
    await against('FUSE of C, 1 MiB in a row', 'MB/s', 0.85, 'sequential', 'big', '1048576')
    await against('FUSE of C, 4 KiB at random, 1 reader', 'reads/s', 0.85, 'random', 'big', '1', '20000')
    await against('FUSE of C, 4 KiB at random, 4 readers', 'reads/s', 0.85, 'random', 'big', '4', '40000')
    await against('FUSE of C, readdir of 20,000 names', 'names/s', 0.85, 'readdir', 'wide', '5')
    await against('FUSE of C, stat, 4 processes', 'calls/s', 0.75, 'stat', 'thousand', '4', '20')
    await against('FUSE of C, page cache', 'MB/s of processor time', 0.95, 'cached', 'big', '131072')
    await against('FUSE of ext4, page cache', 'MB/s of processor time', 0.95, 'cached', 'big', '131072')
    // Neither server is asked: what the kernel's own FUSE costs.
    await against('C of ext4, page cache', 'MB/s of processor time', 0.95, 'cached', 'big', '131072')

    const find = (root: string) => async () => {
      dropPageCache()
      return timeCommand('sh', ['-c', 'find "$0" -ls >/dev/null', path.join(root, 'many')])
    }
    const { a, b } = await byTurns(Math.min(rounds, 3), find(tree), find(walked.mountpoint))
    report({
      name: 'FUSE of ext4, find -ls of 200,000 files, cold',
      value: a / b,
      target: { atLeast: 0.3 },
      detail: `${b.toFixed(1)} s, ${a.toFixed(1)} s on ext4`,
    })
    const resident = residentBytes(walked.child.pid ?? 0)
    report({
      name: 'VmRSS of the FUSE daemon after walks of 200,000 files',
      value: resident / MIB,
      target: { atMost: 150 },
      unit: ' MiB',
      detail: mebibytes(resident),
    })
  } finally {
    unmountBelow(directory)
    await serving.kill()
    await walked.kill()
    other.kill('SIGKILL')
  }
}

async function serve(directory: string, image: ChildImage): Promise<FuseServing> {
  mkdirSync(path.join(directory, 'mnt'), { recursive: true })
  const serving = new FuseServing(directory)
  const { mountpoint } = serving
  await serving.call('open', { mountpoint, workers: WORKERS, readAheadKb: READ_AHEAD_KB })
  await serving.call('show', image)
  await serving.call('start')
  return serving
}

function makeTree(tree: string): void {
  for (const name of ['thousand', 'wide', 'many']) mkdirSync(path.join(tree, name), { recursive: true })
  const fd = openSync(path.join(tree, 'big'), 'w')
  for (let at = 0; at < BIG_BYTES; at += 16 * MIB) writeSync(fd, randomBytes(16 * MIB))
  closeSync(fd)
  for (let i = 0; i < 1000; i++) writeFileSync(path.join(tree, 'thousand', `file-${i}`), 'x'.repeat(i))
  for (let i = 0; i < 20_000; i++) writeFileSync(path.join(tree, 'wide', `name-${i}`), '')
  for (let d = 0; d < MANY_DIRECTORIES; d++) {
    const directory = path.join(tree, 'many', `directory-${d}`)
    mkdirSync(directory)
    for (let i = 0; i < FILES_EACH; i++) writeFileSync(path.join(directory, `file-${i}`), `${d} ${i}`)
  }
}

function compile(name: string, directory: string): string {
  const program = path.join(directory, name)
  execFileSync('gcc', ['-O2', '-pthread', '-o', program, path.join(SOURCES, `${name}.c`)])
  return program
}

/** As far as ours: what the kernel asks for at once decides more than who answers. */
function setReadAhead(mountpoint: string): void {
  const device = execFileSync('findmnt', ['-no', 'MAJ:MIN', mountpoint]).toString().trim()
  writeFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, String(READ_AHEAD_KB))
}
