import type { ReadStatistics } from '../backend/read-statistics.js'
import type { BackendMetrics, BlobcacheMetrics } from '../client/api.js'
import type { CachedBlob } from '../cache/cached-blob.js'
import type { CacheCounters } from '../cache/stats.js'

/** Upstream's cache statistics. What this cache has not (a slow path, buffered writes) is 0. */
export function blobcacheMetrics(
  directory: string,
  blobs: readonly CachedBlob[],
  counters: CacheCounters,
): BlobcacheMetrics {
  return {
    underlying_files: blobs.map(blob => `${blob.blobId}.blob.data`),
    store_path: directory,
    partial_hits: counters.hits,
    whole_hits: 0,
    total: counters.hits + counters.waits,
    entries_count: counters.chunksReady,
    prefetch_data_amount: 0,
    prefetch_requests_count: counters.prefetchRequests,
    prefetch_workers: 0,
    prefetch_cumulative_time_millis: 0,
    prefetch_begin_time_secs: 0,
    prefetch_begin_time_millis: 0,
    prefetch_end_time_secs: 0,
    prefetch_end_time_millis: 0,
    prefetch_unmerged_chunks: 0,
    buffered_backend_size: 0,
    data_all_ready: blobs.every(blob => blob.complete),
  }
}

/** Upstream's statistics of a backend's reads. */
export function backendMetrics(type: string, statistics: ReadStatistics): BackendMetrics {
  return {
    backend_type: type,
    read_count: statistics.reads,
    read_errors: statistics.errors,
    read_amount_total: statistics.requestedBytes,
    read_cumulative_latency_millis_total: statistics.latencyMs,
    read_cumulative_latency_millis_dist: [...statistics.latencyMsBySize],
    read_count_block_size_dist: [...statistics.readsBySize],
    read_latency_sizes_dist: statistics.readsBySizeAndLatency.map(classes => [...classes]),
  }
}
