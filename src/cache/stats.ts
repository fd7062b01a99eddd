import Counter from 'prom-client/lib/counter.js'
import type { RequestKind } from '../backend/reader.js'
import { metrics } from '../common/metrics.js'

/** What a cache did since it was opened; all values only grow. */
export interface CacheCounters {
  /** Stored bytes that were asked of the backend and arrived. */
  fetchedBytes: number
  /** Requests to the backend, by who asked; retries inside the reader count once. */
  demandRequests: number
  readaheadRequests: number
  prefetchRequests: number
  /** Requests that failed after the reader's retries. */
  failedRequests: number
  /** Chunks that became ready since the blob was opened. */
  chunksReady: number
  /** Questions of waiting readers that were answered at once, and that had to wait. */
  hits: number
  waits: number
  /** Time that waiting readers waited, in milliseconds, added up. */
  stallMs: number
  /** Chunks that failed their digest or could not be decoded, each attempt. */
  corruptChunks: number
  /** Chunks that could not be written. */
  failedWrites: number
}

export function createCounters(): CacheCounters {
  return {
    fetchedBytes: 0,
    demandRequests: 0,
    readaheadRequests: 0,
    prefetchRequests: 0,
    failedRequests: 0,
    chunksReady: 0,
    hits: 0,
    waits: 0,
    stallMs: 0,
    corruptChunks: 0,
    failedWrites: 0,
  }
}

const HELP: Record<keyof CacheCounters, [name: string, help: string]> = {
  fetchedBytes: ['nydus_cache_fetched_bytes_total', 'Stored bytes fetched from backends'],
  demandRequests: ['nydus_cache_demand_requests_total', 'Backend requests for waiting readers'],
  readaheadRequests: ['nydus_cache_readahead_requests_total', 'Backend requests ahead of sequential readers'],
  prefetchRequests: ['nydus_cache_prefetch_requests_total', 'Backend requests of prefetch'],
  failedRequests: ['nydus_cache_failed_requests_total', 'Backend requests that failed after retries'],
  chunksReady: ['nydus_cache_chunks_ready_total', 'Chunks that became ready'],
  hits: ['nydus_cache_hits_total', 'Questions of readers that were answered at once'],
  waits: ['nydus_cache_waits_total', 'Questions of readers that had to wait'],
  stallMs: ['nydus_cache_stall_milliseconds_total', 'Time that readers waited'],
  corruptChunks: ['nydus_cache_corrupt_chunks_total', 'Fetched chunks with a wrong digest or undecodable'],
  failedWrites: ['nydus_cache_failed_writes_total', 'Chunks that could not be written to the cache file'],
}

const names = Object.keys(HELP) as (keyof CacheCounters)[]
const exported = Object.fromEntries(
  names.map(key => {
    const [name, help] = HELP[key]
    return [key, new Counter({ name, help, registers: [metrics] })]
  }),
) as Record<keyof CacheCounters, Counter>

/** Counts for one blob, for its cache and for the process at once. */
export class BlobStats {
  readonly counters = createCounters()
  readonly #total: CacheCounters

  constructor(total: CacheCounters) {
    this.#total = total
  }

  count(what: keyof CacheCounters, amount = 1): void {
    this.counters[what] += amount
    this.#total[what] += amount
    exported[what].inc(amount)
  }

  countRequest(kind: RequestKind): void {
    this.count(`${kind}Requests`)
  }
}
