/**
 * Reads of a file whose blob is complete, beside the same file on ext4: nothing of ours is in the way then but EROFS
 * itself, which the kernel shows: the blob's mark is gone from the fanotify group.
 */
import { mkdirSync, readFileSync, readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { MS, mount, unmount } from '../src/native/mount.js'
import { byTurns, report, runCommand } from './figures.js'
import { dropPageCache, type MountedStage, oneFileTar, type Stage, touchMemory } from './stage.js'

const SIZE = 256 * 2 ** 20
/** The cache file and the mount have the bytes in the page cache, each for itself. */
const TOUCHED = 2.5 * SIZE
const TIMEOUT = { timeoutMs: 10_000 }

interface Workload {
  readonly name: string
  readonly fio: readonly string[]
  readonly cold: boolean
}

interface FioJob {
  readonly read: { readonly io_bytes: number; readonly bw_bytes: number }
  /** Percent of the runtime. */
  readonly usr_cpu: number
  readonly sys_cpu: number
  /** Milliseconds. */
  readonly job_runtime: number
}

const WORKLOADS: readonly Workload[] = [
  { name: '128 KiB in a row, from the disk', fio: ['--rw=read', '--bs=128k'], cold: true },
  {
    name: '128 KiB in a row, from the page cache',
    fio: ['--rw=read', '--bs=128k', '--loops=8'],
    cold: false,
  },
  {
    name: '4 KiB at random, from the page cache',
    fio: ['--rw=randread', '--bs=4k', '--loops=2'],
    cold: false,
  },
]

export async function benchWarmRead(stage: Stage, rounds: number): Promise<void> {
  const image = await stage.push([oneFileTar('big', SIZE)], 'none')
  const mounted = await stage.mount(image)
  const lazy = path.join(mounted.mountpoint, 'big')
  const plain = path.join(stage.directory, 'plain')
  mkdirSync(plain)
  await runCommand('cp', [lazy, path.join(plain, 'big')])
  await untilUnmarked(mounted, image.blobIds)
  const overLazy = await overlay(stage.directory, 'over-lazy', mounted.mountpoint)
  const overPlain = await overlay(stage.directory, 'over-plain', plain)
  const pairs = [
    { where: 'EROFS of ext4', ours: lazy, theirs: path.join(plain, 'big') },
    { where: 'overlay on EROFS of overlay on ext4', ours: `${overLazy}/big`, theirs: `${overPlain}/big` },
  ]
  for (const { where, ours, theirs } of pairs) {
    for (const workload of WORKLOADS) {
      const { a, b } = await byTurns(
        rounds,
        () => bandwidth(theirs, workload, stage.directory),
        () => bandwidth(ours, workload, stage.directory),
      )
      const detail = `${(b / 1e6).toFixed(0)} of ${(a / 1e6).toFixed(0)} MB/s`
      report({ name: `${where}: ${workload.name}`, value: b / a, target: { atLeast: 0.95 }, detail })
    }
  }
  const events = markedBlobs(await mounted.node.daemonPid(), mounted.cacheDirectory, image.blobIds)
  report({
    name: 'marks left on the complete blob',
    value: events,
    target: { atMost: 0 },
    unit: ' marks',
    detail: 'fanotify lines of fdinfo',
  })
  await unmount(overLazy, TIMEOUT)
  await unmount(overPlain, TIMEOUT)
  await mounted.end()
}

/**
 * Bytes a second; out of the page cache bytes a second of processor time, which is all that such a read takes, and which
 * other programs on the machine do not change.
 */
async function bandwidth(file: string, { fio, cold }: Workload, scratch: string): Promise<number> {
  if (cold) {
    dropPageCache()
    touchMemory(scratch, TOUCHED)
  } else await runCommand('dd', [`if=${file}`, 'of=/dev/null', 'bs=1M'])
  const common = ['--name=read', '--readonly', '--invalidate=0', '--ioengine=psync', '--output-format=json']
  const output = await runCommand('fio', [...common, ...fio, `--filename=${file}`])
  const [job] = (JSON.parse(output) as { jobs: FioJob[] }).jobs
  if (!job) throw new Error('fio measured nothing')
  if (cold) return job.read.bw_bytes
  return job.read.io_bytes / (((job.usr_cpu + job.sys_cpu) / 100) * (job.job_runtime / 1000))
}

/** A blob loses its mark when it is complete and on the disk. */
async function untilUnmarked(mounted: MountedStage, blobIds: readonly string[]): Promise<void> {
  const pid = await mounted.node.daemonPid()
  for (let tries = 0; tries < 600; tries++) {
    if (markedBlobs(pid, mounted.cacheDirectory, blobIds) === 0) return
    await delay(100)
  }
  throw new Error('the blob was read in full and is still marked')
}

/** How many of the blobs the kernel would ask about: their inodes in the lines of the daemon's fanotify group. */
function markedBlobs(pid: number, cacheDirectory: string, blobIds: readonly string[]): number {
  const inodes = blobIds.map(id => statSync(path.join(cacheDirectory, `${id}.blob.data`)).ino.toString(16))
  const lines = readdirSync(`/proc/${pid}/fdinfo`).flatMap(fd => readLines(`/proc/${pid}/fdinfo/${fd}`))
  const marks = lines.filter(line => line.startsWith('fanotify ino:'))
  if (marks.length === 0)
    throw new Error('the daemon has no fanotify group: this figure is about that driver')
  return inodes.filter(ino => marks.some(line => line.startsWith(`fanotify ino:${ino} `))).length
}

function readLines(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split('\n')
  } catch {
    // Closed meanwhile.
    return []
  }
}

async function overlay(directory: string, name: string, lower: string): Promise<string> {
  const [target, upper, work] = ['mnt', 'upper', 'work'].map(part => path.join(directory, `${name}-${part}`))
  if (!target || !upper || !work) throw new Error('unreachable')
  for (const one of [target, upper, work]) mkdirSync(one)
  const data = `lowerdir=${lower},upperdir=${upper},workdir=${work}`
  await mount({ source: 'overlay', target, type: 'overlay', flags: MS.RDONLY, data, ...TIMEOUT })
  return target
}
