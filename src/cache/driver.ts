/**
 * The contract of a driver: what turns a kernel's questions into `ensure(blob, offset, length)`. The daemon drives all
 * of them through this.
 *
 * Life of an instance: attach → the supervisor mounts → canary → mounted → … → the superblock is gone → detach.
 */
import type { ByteSource } from '../common/byte-source.js'
import type { CachedBlob } from './cached-blob.js'

export type DriverName = 'fscache' | 'fanotify'

/** A descriptor that must outlive this process: named, so that a successor finds it. */
export interface KeptDescriptor {
  readonly name: string
  readonly fd: number
}

/** One mounted image, as a driver sees it. */
export interface Instance {
  /** Unique in the daemon: `<domain>/<id>`. */
  readonly key: string
  readonly domainId: string
  /** The mount's fsid: a fresh one per mount (bootstrap digest and generation). */
  readonly id: string
  readonly bootstrapPath: string
  readonly bootstrap: ByteSource
  /** In the order of the device table. */
  readonly blobs: readonly CachedBlob[]
}

/** How the supervisor is to mount the instance. */
export type MountPlan =
  | { readonly kind: 'file'; readonly source: string; readonly devices: readonly string[] }
  | { readonly kind: 'fsid'; readonly fsid: string; readonly domainId: string }

export interface DriverStats {
  /** Kernel events (or READ messages) answered, by outcome. */
  eventsAnswered: number
  eventsDenied: number
  eventsPending: number
}

export interface Driver {
  readonly name: DriverName
  /** Begins to take events. With descriptors of a dead predecessor it settles first what that one left. */
  start(): Promise<void>
  /** Makes the instance's objects known to the kernel path. After it, mounting is safe. */
  attach(instance: Instance): Promise<MountPlan>
  /** Told after mount and canary: complete blobs need no events any more. */
  mounted(key: string): void
  /** Told when the superblock is gone. Idempotent. */
  detach(key: string): Promise<void>
  /** Drops the kernel's own copy of a blob, of paths that have one. @throws INSTANCE_BUSY */
  cull?(blobId: string): void
  /** Process whose reads of not yet local data are to fail: the prober of the canary; 0 for none. */
  setProber(pid: number): void
  /** Everything that a successor needs, at this moment. */
  descriptors(): KeptDescriptor[]
  stats(): DriverStats
  /** Stops taking events; unanswered ones stay with whoever holds the descriptors. */
  stop(): Promise<void>
}
