import type { ReadStatistics } from '../backend/read-statistics.js'
import type { BackendMetrics, BlobcacheMetrics } from '../client/api.js'
import type { CachedBlob } from '../cache/cached-blob.js'
import type { CacheCounters } from '../cache/stats.js'
import type { PrefetchStats } from './prefetch.js'

/**
 * Upstream's cache statistics. What this cache has not (a slow path, buffered writes, workers of its own) is 0.
 * @param id of the configuration or instance
 */
export function blobcacheMetrics(
  id: string,
  directory: string,
  blobs: readonly CachedBlob[],
  counters: CacheCounters,
  prefetch: PrefetchStats | undefined,
): BlobcacheMetrics {
  return {
    id,
    underlying_files: blobs.map(blob => `${blob.blobId}.blob.data`),
    store_path: directory,
    partial_hits: counters.hits,
    whole_hits: 0,
    total: counters.hits + counters.waits,
    entries_count: counters.chunksReady,
    ...prefetchMetrics(counters, prefetch),
    buffered_backend_size: 0,
    data_all_ready: blobs.every(blob => blob.durable),
  }
}

function prefetchMetrics({ prefetchRequests }: CacheCounters, prefetch: PrefetchStats | undefined) {
  const { beganMs = 0, endedMs, bytes = 0, workers = 0 } = prefetch ?? {}
  const running = prefetch && endedMs === undefined
  return {
    prefetch_data_amount: bytes,
    prefetch_requests_count: prefetchRequests,
    prefetch_workers: running ? workers : 0,
    prefetch_cumulative_time_millis: prefetch ? (endedMs ?? Date.now()) - beganMs : 0,
    prefetch_begin_time_secs: Math.floor(beganMs / 1000),
    prefetch_begin_time_millis: beganMs % 1000,
    prefetch_end_time_secs: Math.floor((endedMs ?? 0) / 1000),
    prefetch_end_time_millis: (endedMs ?? 0) % 1000,
    prefetch_unmerged_chunks: 0,
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
