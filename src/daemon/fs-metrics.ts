/** What a mounted image was asked, as upstream's API shows it (nydusd.md 3.6). */
import type { AccessPattern, FileMetrics, FsMetrics, InflightInfo } from '../client/api.js'
import {
  type Accounting,
  type FileStats,
  type ImageStats,
  type InflightRequest,
  READ_OPERATION,
} from '../fuse/server.js'

export function fsMetrics(mountpoint: string, accounting: Accounting, stats: ImageStats): FsMetrics {
  return {
    files_account_enabled: accounting.files,
    access_pattern_enabled: accounting.pattern,
    record_latest_read_files_enabled: accounting.latest,
    measure_latency: true,
    id: mountpoint,
    nr_opens: stats.opens,
    data_read: stats.dataReadBytes,
    block_count_read: [...stats.readsBySize],
    fop_hits: [...stats.hits],
    fop_errors: [...stats.errors],
    fop_cumulative_latency_total: [...stats.latencyTotalUs],
    read_latency_dist: [...stats.readsByLatency],
  }
}

/** By inode number; nothing where files are not counted. */
export function fileMetrics(
  accounting: Accounting,
  files: readonly FileStats[],
): Record<string, FileMetrics> {
  if (!accounting.files) return {}
  return Object.fromEntries(
    files.map(file => [
      String(file.ino),
      {
        total_fops: file.totalOperations,
        data_read: file.dataReadBytes,
        block_count_read: [...file.readsBySize],
        fop_hits: [...file.hits],
        fop_errors: [...file.errors],
      },
    ]),
  )
}

/** Files that were read; nothing where patterns are not recorded. */
export function accessPatterns(accounting: Accounting, files: readonly FileStats[]): AccessPattern[] {
  if (!accounting.pattern) return []
  return files.flatMap(({ ino, hits, firstReadMs }) =>
    firstReadMs === undefined
      ? []
      : [
          {
            ino,
            nr_read: hits[READ_OPERATION] ?? 0,
            first_access_time_secs: Math.floor(firstReadMs / 1000),
            first_access_time_nanos: Math.floor((firstReadMs % 1000) * 1_000_000),
          },
        ],
  )
}

export function inflightInfo({ inode, opcode, unique, sinceMs }: InflightRequest): InflightInfo {
  return { inode, opcode, unique, timestamp_secs: Math.floor(sinceMs / 1000) }
}
