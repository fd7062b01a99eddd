/** A daemon as an operator sees it. */
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { DaemonClient } from '../client/daemon-client.js'
import type { MountedImage } from './image-mounts.js'
import type { ImageRecord } from './image-record.js'

/** A daemon that hangs must not keep the others from being told of. */
const ANSWER_TIMEOUT_MS = 2000

export interface DaemonStatus {
  /** `shared`, or the id of the image that it serves alone. */
  readonly id: string
  /** 0 while none runs. */
  readonly pid: number
  readonly apiSocket: string
  /** What was built: `Git Commit` of `nydusd --version`. */
  readonly commit: string
  readonly driver: string
  /** Of its FUSE mount; empty where it makes none. */
  readonly mountpoint: string
  /** Who needs it: its images, and the snapshotter of the shared one. */
  readonly references: number
  /** 0 where it cannot be told, as upstream has it. */
  readonly memoryRssKb: number
  /** What its FUSE mounts were read, 0 where it cannot be told. */
  readonly readDataKb: number
  readonly images: readonly ImageStatus[]
  /** Since this snapshotter watches it. */
  readonly deaths: number
  /** More than 0 while it keeps dying and is not started again yet. */
  readonly restartInMs: number
}

export interface ImageStatus extends Pick<MountedImage, 'id' | 'imageRef' | 'mountpoint'> {
  /** Of its snapshot. */
  readonly directory: string
}

export function imageStatus({ spec }: ImageRecord, { mountpoint }: MountedImage): ImageStatus {
  return { id: spec.id, imageRef: spec.imageRef, mountpoint, directory: dirname(spec.mountpoint) }
}

/** Resident memory; 0 for a process that is gone. */
export function readMemoryRssKb(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0)
  } catch {
    return 0
  }
}

/** What images at these paths of a daemon's FUSE mount were read; one that cannot be asked counts nothing. */
export async function fetchReadDataKb(apiSocket: string, paths: readonly string[]): Promise<number> {
  const client = new DaemonClient(apiSocket, { timeoutMs: ANSWER_TIMEOUT_MS })
  const counted = paths.map(path =>
    client.fsMetrics(path).then(
      ({ data_read: bytes }) => bytes,
      () => 0,
    ),
  )
  const bytes = await Promise.all(counted).finally(() => client.close())
  return Math.floor(bytes.reduce((sum, one) => sum + one, 0) / 1024)
}
