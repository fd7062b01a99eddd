import type { CachedBlob } from '../cache/cached-blob.js'
import type { CacheCounters } from '../cache/stats.js'

/**
 * Upstream's cache statistics (nydusd 2.x, /api/v1/metrics/blobcache). What a kernel path has not (a slow path, buffered
 * writes) or does not count by itself (bytes of prefetch) is 0.
 */
export interface BlobcacheMetrics {
  underlying_files: string[]
  store_path: string
  partial_hits: number
  whole_hits: number
  total: number
  entries_count: number
  prefetch_requests_count: number
  prefetch_data_amount: number
  buffered_backend_size: number
  data_all_ready: boolean
}

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
    prefetch_requests_count: counters.prefetchRequests,
    prefetch_data_amount: 0,
    buffered_backend_size: 0,
    data_all_ready: blobs.every(blob => blob.complete),
  }
}
