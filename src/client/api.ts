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
  /** What is mounted by FUSE, by mountpoint; null from /api/v2/daemon. */
  backend_collection: Record<string, MountInfo> | null
  /** Ours: the kernel path in use and the process id. */
  driver: string
  pid: number
  /** Ours: why none of the drivers that come first was taken, a sentence each; absent where it was the first. */
  passed_over?: readonly string[]
}

/** One entry of `backend_collection`. */
export interface MountInfo {
  backend_type: 'Rafs'
  mountpoint: string
  /** `2026-01-31 23:59:59.123 +00:00:00`. */
  mounted_time: string
  /** The configuration in version 2, without secrets. */
  config: Readonly<Record<string, unknown>> | null
}

/** Body of POST and PUT /api/v1/mount. */
export interface MountCommand {
  /** Path of the bootstrap. */
  source: string
  /** `rafs` is what there is. */
  fs_type: string
  /** The text of a configuration, in any version. */
  config: string
  /** Absolute paths in the image. */
  prefetch_files?: string[] | null
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

/** GET /api/v1/daemon/backend: the superblock of a mounted image. What a version of RAFS has not is 0. */
export interface SuperblockInfo {
  magic: number
  version: number
  sb_size: number
  root_inode: number
  chunk_size: number
  batch_size: number
  inodes_count: number
  flags: { bits: number }
  inode_table_entries: number
  inode_table_offset: number
  blob_table_size: number
  blob_table_offset: number
  extended_blob_table_offset: number
  extended_blob_table_entries: number
  blob_device_table_count: number
  blob_device_table_offset: number
  prefetch_table_offset: number
  prefetch_table_entries: number
  attr_timeout: { secs: number; nanos: number }
  entry_timeout: { secs: number; nanos: number }
  is_chunk_dict: boolean
  meta_blkaddr: number
  root_nid: number
  chunk_table_offset: number
  chunk_table_size: number
}

/** GET /api/v1/daemon/events: the last failed reads of backends, each `HTTP date - sentence`. */
export interface DaemonEvents {
  max_errors: number
  total_errors: number
  /** Bytes. */
  max_size: number
  total_size: number
  errors: string[]
}

/**
 * GET /api/v1/metrics: what a mounted image was asked. Arrays `fop_*` follow Getattr, Readlink, Open, Release, Read,
 * Statfs, Getxattr, Listxattr, Opendir, Lookup, Readdir, Readdirplus, Access, Forget, BatchForget.
 */
export interface FsMetrics {
  files_account_enabled: boolean
  access_pattern_enabled: boolean
  record_latest_read_files_enabled: boolean
  measure_latency: boolean
  /** The mountpoint. */
  id: string
  nr_opens: number
  data_read: number
  /** By size: below 1 KiB, 4, 16, 64, 128, 512 KiB, 1 MiB, more. */
  block_count_read: number[]
  fop_hits: number[]
  fop_errors: number[]
  /** Microseconds; reads alone are measured. */
  fop_cumulative_latency_total: number[]
  /** By microseconds: up to 200, 1,000, 20,000, 50,000, 500,000, 1,000,000, 2,000,000, more. */
  read_latency_dist: number[]
}

/**
 * GET /api/v1/metrics of a daemon that serves a kernel path, where upstream counts nothing: its counters are 0, ours are
 * those of the driver.
 */
export interface KernelMetrics extends FsMetrics {
  driver: string
  instances: number
  events_answered: number
  events_denied: number
  events_pending: number
  cache: Record<string, number>
}

/** One value of GET /api/v1/metrics/files, by inode number. */
export interface FileMetrics {
  total_fops: number
  data_read: number
  block_count_read: number[]
  fop_hits: number[]
  fop_errors: number[]
}

/** One element of GET /api/v1/metrics/files?latest=true: an inode, or the first and last of a range. */
export type InodeRange = readonly [number] | readonly [number, number]

/** One element of GET /api/v1/metrics/pattern. */
export interface AccessPattern {
  ino: number
  nr_read: number
  first_access_time_secs: number
  first_access_time_nanos: number
}

/** GET /api/v1/metrics/backend; size classes are those of `FsMetrics`. */
export interface BackendMetrics {
  backend_type: string
  read_count: number
  read_errors: number
  read_amount_total: number
  read_cumulative_latency_millis_total: number
  read_cumulative_latency_millis_dist: number[]
  read_count_block_size_dist: number[]
  /** By size class, then by milliseconds: up to 1, 20, 50, 100, 500, 1,000, 2,000, more. */
  read_latency_sizes_dist: number[][]
}

/** GET /api/v1/metrics/blobcache */
export interface BlobcacheMetrics {
  id: string
  underlying_files: string[]
  store_path: string
  partial_hits: number
  whole_hits: number
  total: number
  entries_count: number
  prefetch_data_amount: number
  prefetch_requests_count: number
  prefetch_workers: number
  prefetch_cumulative_time_millis: number
  prefetch_begin_time_secs: number
  prefetch_begin_time_millis: number
  prefetch_end_time_secs: number
  prefetch_end_time_millis: number
  prefetch_unmerged_chunks: number
  buffered_backend_size: number
  /** Every chunk of every blob is local, and on the disk. */
  data_all_ready: boolean
}

/** One element of GET /api/v1/metrics/inflight. */
export interface InflightInfo {
  inode: number
  opcode: number
  unique: number
  timestamp_secs: number
}

/** Every error body. `code` is always UNDEFINED, as upstream's; `fault` is our stable code. */
export interface ErrorBody {
  code: 'UNDEFINED'
  message: string
  fault: string
}
