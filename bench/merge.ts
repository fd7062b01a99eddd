/**
 * Metadata at scale: 100 layers merged to 500,000 inodes, the merged image checked, its size beside the sum of its parts
 * by the layout rules, and a walk of it in the kernel beside ext4 with the same tree.
 */
import { execFile, execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { FileSource } from '../src/common/byte-source.js'
import {
  BLOB_ENTRY_SIZE,
  CHUNK_INDEX_SIZE,
  CHUNK_RECORD_SIZE,
  DEVICE_SLOT_SIZE,
  DIRENT_SIZE,
  EXTENDED_INODE_SIZE,
  INODE_SLOT_SIZE,
  alignUp,
} from '../src/erofs/format.js'
import type { DirectoryInode, ImageChunk, RafsImage } from '../src/erofs/image-tree.js'
import { loadImage } from '../src/erofs/load-image.js'
import { mountErofs, unmount } from '../src/native/mount.js'
import { programPath } from '../test/helpers/command-line.js'
import { byTurns, median, mebibytes, report, runCommand, timeCommand } from './figures.js'
import { writeLayers } from './many-inodes.js'
import type { Stage } from './stage.js'

const LAYERS = 100
const INODES = 5000
/** Of the image that is walked: ext4 must be filled with as many files. */
const WALKED_LAYERS = 10

/**
 * Prints what a program took at the end: getrusage(2) would count the memory that the parent had before exec, too. With
 * processors and disk to itself it would take the main thread's time at least; the rest is V8's collector and compiler.
 */
const USAGE_HOOK =
  'data:text/javascript,import{readFileSync as r}from"node:fs";process.on("exit",()=>{' +
  'const{user:u,system:s}=process.cpuUsage();process.stderr.write("usage "+[' +
  '/VmHWM:\\s+(\\d+)/.exec(r("/proc/self/status","utf8"))[1]/1024,(u+s)/1e6,' +
  'r("/proc/self/task/"+process.pid+"/schedstat","utf8").split(" ")[0]/1e9].join(" ")+"\\n")})'

interface Usage {
  readonly seconds: number
  readonly peakMiB: number
  /** Of all threads. */
  readonly cpuSeconds: number
  readonly mainSeconds: number
}

export async function benchMerge(_stage: Stage, rounds: number): Promise<void> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'bench-merge-'))
  try {
    const layers = writeLayers(directory, LAYERS, INODES)
    const merged = path.join(directory, 'merged.boot')
    const merge = await measure(rounds, ['merge', ...layers, '-B', merged])
    const inodes = `${LAYERS} layers, ${LAYERS * INODES} inodes`
    report({
      name: `merge of ${inodes}`,
      value: merge.seconds,
      target: { atMost: 3 },
      unit: ' s',
      detail: timesOf(merge),
    })
    report({
      name: 'peak memory of the merge',
      value: merge.peakMiB,
      target: { atMost: 400 },
      unit: ' MiB',
      detail: '',
    })
    const check = await measure(rounds, ['check', merged])
    const detail = `peak ${check.peakMiB.toFixed(0)} MiB, ${timesOf(check)}`
    report({
      name: 'check of it without blobs',
      value: check.seconds,
      target: { atMost: 3 },
      unit: ' s',
      detail,
    })
    reportSize(merged)
    rmSync(merged)
    await benchWalk(directory, layers.slice(0, WALKED_LAYERS), rounds)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** The medians of several runs. */
async function measure(rounds: number, args: string[]): Promise<Usage> {
  const runs: [number, number, number, number][] = []
  for (let round = 0; round < rounds; round++) {
    const started = performance.now()
    const line = ['--import', USAGE_HOOK, programPath('nydus-image'), ...args]
    const { stderr } = await promisify(execFile)(process.execPath, line, { maxBuffer: 1 << 24 })
    const [peakMiB = NaN, cpu = NaN, main = NaN] =
      /usage (.*)/.exec(stderr)?.[1]?.split(' ').map(Number) ?? []
    runs.push([(performance.now() - started) / 1000, peakMiB, cpu, main])
  }
  const of = (column: 0 | 1 | 2 | 3): number => median(runs.map(run => run[column]))
  return { seconds: of(0), peakMiB: of(1), cpuSeconds: of(2), mainSeconds: of(3) }
}

function timesOf({ cpuSeconds, mainSeconds }: Usage): string {
  return `processor time ${cpuSeconds.toFixed(1)} s, of the main thread ${mainSeconds.toFixed(1)} s`
}

/** The file beside what its inodes, names, chunks and blobs take by themselves: the rest is the padding of blocks. */
function reportSize(file: string): void {
  const source = new FileSource(file)
  const parts = sizeOfParts(loadImage(source))
  source.close()
  const { size } = statSync(file)
  const detail = `${mebibytes(size)} for ${mebibytes(parts)}`
  report({
    name: 'bootstrap beside the sum of its parts',
    value: size / parts,
    target: { atMost: 1.05 },
    detail,
  })
}

function sizeOfParts({ root, blobs }: RafsImage): number {
  const chunks = new Set<ImageChunk>()
  let size = blobs.length * (BLOB_ENTRY_SIZE + DEVICE_SLOT_SIZE)
  const open = [root]
  for (let directory = open.pop(); directory !== undefined; directory = open.pop()) {
    // `.` and `..`
    let entries = 2 * DIRENT_SIZE + 3
    for (const [name, child] of directory.children) {
      entries += DIRENT_SIZE + name.length
      if (child.type === 'directory') open.push(child)
      else if (child.type === 'symlink') size += slots(child.target.length)
      else if (child.type === 'regular') {
        size += slots(child.chunks.length * CHUNK_INDEX_SIZE)
        for (const chunk of child.chunks) chunks.add(chunk)
      }
    }
    size += slots(entries)
  }
  return size + chunks.size * CHUNK_RECORD_SIZE
}

/** An inode and what follows it, in whole slots. */
function slots(sizeBytes: number): number {
  return alignUp(EXTENDED_INODE_SIZE + sizeBytes, INODE_SLOT_SIZE)
}

/** `find` that asks for the size of everything, over EROFS and over ext4, both without anything cached but the disk. */
async function benchWalk(directory: string, layers: string[], rounds: number): Promise<void> {
  const boot = path.join(directory, 'walked.boot')
  await runCommand(process.execPath, [programPath('nydus-image'), 'merge', ...layers, '-B', boot])
  const source = new FileSource(boot)
  const image = loadImage(source)
  source.close()
  const [erofs, ext4] = ['erofs', 'ext4'].map(name => path.join(directory, name))
  if (erofs === undefined || ext4 === undefined) return
  mkdirSync(erofs)
  mkdirSync(ext4)
  const disk = `${ext4}.disk`
  writeFileSync(disk, '')
  truncateSync(disk, 1 << 30)
  execFileSync('mkfs.ext4', ['-q', '-N', '100000', disk])
  execFileSync('mount', ['-o', 'loop', disk, ext4])
  try {
    fill(image.root, ext4)
    const devices = image.blobs.map(({ id, uncompressedSize }) => {
      const device = path.join(directory, id)
      writeFileSync(device, '')
      truncateSync(device, uncompressedSize)
      return device
    })
    await mountErofs({ source: boot, devices, target: erofs, timeoutMs: 10_000 })
    try {
      const walk = (target: string) => async () => {
        execFileSync('sync')
        writeFileSync('/proc/sys/vm/drop_caches', '2')
        return timeCommand('find', [target, '-size', '+1000000'])
      }
      const { a, b } = await byTurns(rounds, walk(erofs), walk(ext4))
      const detail = `EROFS ${(a * 1000).toFixed(0)} ms, ext4 ${(b * 1000).toFixed(0)} ms, ${layers.length * INODES} inodes`
      report({
        name: 'find over the metadata: speed beside ext4',
        value: b / a,
        target: { atLeast: 0.9 },
        detail,
      })
    } finally {
      await unmount(erofs, { timeoutMs: 10_000 })
    }
  } finally {
    execFileSync('umount', [ext4])
  }
}

/** The same names on another file system; files are holes of their size. */
function fill(root: DirectoryInode, target: string): void {
  const open: [DirectoryInode, string][] = [[root, target]]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [directory, at] = next
    for (const [name, child] of directory.children) {
      const own = path.join(at, name)
      if (child.type === 'directory') {
        mkdirSync(own)
        open.push([child, own])
      } else {
        writeFileSync(own, '')
        if (child.type === 'regular') truncateSync(own, child.sizeBytes)
      }
    }
  }
}
