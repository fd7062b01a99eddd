/** The processes of a node, and what the kernel still waits for when one of them is dead. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import path from 'node:path'
import { EventJournal } from '../../src/cache/event-journal.js'
import { processEnded } from '../../src/supervisor/daemon-process.js'
import { type LazyNode, processesOf } from '../helpers/lazy-node.js'

export const DRIVERS = ['fanotify', 'fscache', 'fusedev'] as const
export type StormDriver = (typeof DRIVERS)[number]

export const TARGETS = ['daemon', 'snapshotter', 'holder', 'containerd', 'both'] as const
/** `both`: daemon and snapshotter at one instant. */
export type Target = (typeof TARGETS)[number]

/** Empty while it is dead. */
export function pidsOf(node: LazyNode, target: Target): number[] {
  switch (target) {
    case 'daemon':
      return processesOf(node.directory).filter(pid => read(pid, 'comm') === 'nydusd\n')
    case 'snapshotter': {
      const { pid, exitCode, signalCode } = node.snapshotter.child
      return pid === undefined || exitCode !== null || signalCode !== null ? [] : [pid]
    }
    case 'holder':
      return processes().filter(
        pid => read(pid, 'comm') === 'nydus-holder\n' && read(pid, 'cmdline').includes(node.directory),
      )
    case 'containerd':
      return processes().filter(
        pid =>
          read(pid, 'comm') === 'containerd\n' &&
          read(pid, 'cmdline').includes(`${node.directory}/containerd.toml`),
      )
    case 'both': {
      const [daemon, snapshotter] = [pidsOf(node, 'daemon'), pidsOf(node, 'snapshotter')]
      return daemon.length > 0 && snapshotter.length > 0 ? [...daemon, ...snapshotter] : []
    }
  }
}

/** Whether it has a descriptor that mounts hang on: the snapshotter has adopted its daemon. */
export function keepsKernelDescriptor(pid: number): boolean {
  return linksOf(pid).some(link => ['anon_inode:[fanotify]', '/dev/fuse', '/dev/cachefiles'].includes(link))
}

/** What the descriptors of a process are. */
export function linksOf(pid: number): string[] {
  try {
    const directory = `/proc/${pid}/fd`
    return readdirSync(directory).map(fd => readLink(path.join(directory, fd)))
  } catch {
    return [] // it is dead
  }
}

function readLink(link: string): string {
  try {
    return readlinkSync(link)
  } catch {
    return '' // closed meanwhile
  }
}

/** kill -9; resolves when they are dead. */
export async function kill(pids: readonly number[]): Promise<void> {
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It ended by itself, just now.
    }
  }
  await Promise.all(pids.map(pid => processEnded(pid)))
}

/** How many questions of the kernel have no answer at this moment. */
export type CountUnanswered = () => number

export function countUnanswered(driver: StormDriver, node: LazyNode): CountUnanswered {
  if (driver === 'fusedev') return waitingOnFuse(node)
  const journal = path.join(node.runDirectory, `${driver}.journal`)
  return () => {
    const opened = new EventJournal(journal)
    try {
      return opened.entries().length
    } finally {
      opened.close()
    }
  }
}

/** fusectl of our own: the kernel's count of requests that wait, in its queue or read and not answered. */
function waitingOnFuse(node: LazyNode): CountUnanswered {
  const control = path.join(node.directory, 'fusectl')
  mkdirSync(control, { recursive: true })
  execFileSync('mount', ['-t', 'fusectl', 'none', control])
  return () => {
    let waiting = 0
    for (const { mountpoint } of node.fuseMounts()) {
      const minor = minorOf(mountpoint)
      waiting += Number(readFileSync(path.join(control, minor, 'waiting'), 'utf8'))
    }
    return waiting
  }
}

function minorOf(mountpoint: string): string {
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find(entry => entry.split(' ')[4] === mountpoint)
  return line?.split(' ')[2]?.split(':')[1] ?? ''
}

function processes(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter(pid => pid > 0)
}

function read(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8')
  } catch {
    return ''
  }
}
