/**
 * The daemon's HTTP API on its unix socket, as JSON shapes. Paths and names are upstream's (nydusd 2.x); what is ours is
 * marked. Follows docs/reference/api.md.
 */

export type DaemonState = 'INIT' | 'READY' | 'RUNNING' | 'STOPPED' | 'UNKNOWN'

/** GET /api/v1/daemon */
export interface DaemonInfo {
  id: string | null
  version: { package_ver: string; git_commit: string; build_time: string; profile: string; rustc: string }
  supervisor: string | null
  state: DaemonState
  backend_collection: Record<string, unknown> | null
  /** Ours: the kernel path in use and the process id. */
  driver: string
  pid: number
  /** Ours: why none of the drivers that come first was taken, a sentence each; absent where it was the first. */
  passed_over?: readonly string[]
}

/** Body of POST and PUT /api/v1/mount?mountpoint=/PATH. */
export interface MountCommand {
  /** Absolute path of the bootstrap. */
  source: string
  /** `rafs`. */
  fs_type: string
  /** The whole configuration as text, in any version. */
  config: string
  /** Absolute paths inside the image, instead of the image's own list. */
  prefetch_files?: string[] | null
}

/** GET /api/v1/metrics/blobcache, as far as it is looked at here. */
export interface BlobcacheInfo {
  store_path: string
  underlying_files: string[]
  /** Every blob is complete. */
  data_all_ready: boolean
}

/** Body of PUT /api/v2/blobs: upstream's blob cache entry of an fscache mount. */
export interface BlobCacheEntry {
  type: 'bootstrap'
  id: string
  domain_id: string
  config: {
    id: string
    backend_type: string
    backend_config: Record<string, unknown>
    cache_type: string
    cache_config: Record<string, unknown>
    metadata_path: string
    prefetch_config?: Record<string, unknown>
  }
  /** Ours: the process whose reads are the canary; its misses are denied until the instance is `mounted`. */
  prober_pid?: number
}

/** One element of GET /api/v2/blobs[?domain_id=D[&blob_id=B]] (ours: upstream never implemented it). */
export interface InstanceInfo {
  id: string
  domain_id: string
  metadata_path: string
  driver: string
  mount: MountPlan
  blobs: { blob_id: string; size_bytes: number; complete: boolean }[]
  /**
   * A regular file and an offset in it whose bytes are not local; null when nothing is missing. The search takes time:
   * it is made only where one instance is asked for by `blob_id`.
   */
  canary?: { path: string; offset: number } | null
}

/** How an image is mounted by the kernel: from files, the bootstrap and a device a blob, or by its name in the cache. */
export type MountPlan =
  { kind: 'file'; source: string; devices: string[] } | { kind: 'fsid'; fsid: string; domainId: string }

/** One element of GET /api/v1/daemon/fds (ours): descriptors in the daemon's table that a keeper must duplicate. */
export interface DescriptorInfo {
  name: string
  fd: number
}

/** Every error body. `code` is always UNDEFINED, as upstream's; `fault` is our stable code. */
export interface ErrorBody {
  code: 'UNDEFINED'
  message: string
  fault: string
}
