/** Answers of /api/v1/metrics as a person reads them. */
import type { BackendMetrics, BlobcacheMetrics, FsMetrics, KernelMetrics } from '../../client/api.js'
import { OPERATIONS } from '../../fuse/server.js'
import { bytesText, columnsText, pairsText, ratio, SIZE_NAMES } from './show.js'

const FS_LATENCIES = ['<=200us', '<=1ms', '<=20ms', '<=50ms', '<=500ms', '<=1s', '<=2s', '>2s']

export function cacheText(metrics: BlobcacheMetrics): string {
  const { underlying_files: files, ...rest } = metrics
  return pairsText([
    ['underlying_files', files.length],
    ...Object.entries(rest).map(([name, value]) => [name, String(value)] as const),
  ])
}

export function fsText(metrics: FsMetrics | KernelMetrics): string {
  if ('driver' in metrics) return kernelText(metrics)
  const { fop_hits: hits, fop_errors: errors, fop_cumulative_latency_total: latencies } = metrics
  const operations = OPERATIONS.map((name, i) => [
    name === 'batchForget' ? 'batch forget' : name,
    hits[i] ?? 0,
    errors[i] ?? 0,
    latencies[i] ? Math.round(ratio(latencies[i] ?? 0, hits[i] ?? 0)) : '-',
  ])
  return [
    pairsText([
      ['Mountpoint', metrics.id],
      ['Open files', metrics.nr_opens],
      ['Bytes read', `${metrics.data_read} (${bytesText(metrics.data_read)})`],
    ]),
    columnsText([['Operation', 'Requests', 'Errors', 'Average us'], ...operations]),
    columnsText([
      ['Reads by size', ...SIZE_NAMES],
      ['', ...metrics.block_count_read],
    ]),
    columnsText([
      ['Reads by latency', ...FS_LATENCIES],
      ['', ...metrics.read_latency_dist],
    ]),
  ].join('\n')
}

function kernelText({ cache, ...metrics }: KernelMetrics): string {
  return pairsText([
    ['Driver', metrics.driver],
    ['Images', metrics.instances],
    ['Events answered', metrics.events_answered],
    ['Events denied', metrics.events_denied],
    ['Events pending', metrics.events_pending],
    ...Object.entries(cache).map(([name, value]) => [`Cache ${name}`, value] as const),
  ])
}

export function backendText(metrics: BackendMetrics): string {
  const { read_count: reads, read_amount_total: bytes } = metrics
  return [
    pairsText([
      ['Backend', metrics.backend_type],
      ['Reads', reads],
      ['Failed reads', metrics.read_errors],
      ['Bytes asked for', `${bytes} (${bytesText(bytes)})`],
      ['Average size', bytesText(Math.round(ratio(bytes, reads)))],
      ['Average latency', `${Math.round(ratio(metrics.read_cumulative_latency_millis_total, reads))} ms`],
    ]),
    columnsText([
      ['By size', ...SIZE_NAMES],
      ['Reads', ...metrics.read_count_block_size_dist],
      ['Average ms', ...averages(metrics)],
    ]),
  ].join('\n')
}

/** What happened between two answers, as one line of a table. */
export interface BackendRates {
  readonly reads: number
  readonly failed: number
  readonly bandwidth_kib_per_second: number
  readonly average_size_kib: number
  readonly average_latency_ms: number
  /** By size class. */
  readonly average_latency_ms_by_size: readonly number[]
}

export function backendRates(before: BackendMetrics, after: BackendMetrics, seconds: number): BackendRates {
  const change = difference(before, after)
  const { read_count: reads, read_amount_total: bytes } = change
  return {
    reads,
    failed: change.read_errors,
    bandwidth_kib_per_second: Math.round(ratio(bytes / 1024, seconds)),
    average_size_kib: Math.round(ratio(bytes / 1024, reads)),
    average_latency_ms: Math.round(ratio(change.read_cumulative_latency_millis_total, reads)),
    average_latency_ms_by_size: averages(change),
  }
}

const RATE_NAMES = ['Reads', 'Failed', 'KiB/s', 'Size KiB', 'ms', ...SIZE_NAMES.map(name => `ms ${name}`)]

export const RATES_HEADER = `${RATE_NAMES.join('  ')}\n`

export function ratesText(rates: BackendRates): string {
  const { average_latency_ms_by_size: bySize, ...totals } = rates
  const cells = [...Object.values(totals), ...bySize].map((value, i) =>
    String(value).padStart(RATE_NAMES[i]?.length ?? 0),
  )
  return `${cells.join('  ')}\n`
}

/** A daemon that was started anew counts from zero: then all of it is new. */
function difference(before: BackendMetrics, after: BackendMetrics): BackendMetrics {
  if (after.read_count < before.read_count) return after
  const minus = (a: readonly number[], b: readonly number[]): number[] => a.map((n, i) => n - (b[i] ?? 0))
  return {
    ...after,
    read_count: after.read_count - before.read_count,
    read_errors: after.read_errors - before.read_errors,
    read_amount_total: after.read_amount_total - before.read_amount_total,
    read_cumulative_latency_millis_total:
      after.read_cumulative_latency_millis_total - before.read_cumulative_latency_millis_total,
    read_cumulative_latency_millis_dist: minus(
      after.read_cumulative_latency_millis_dist,
      before.read_cumulative_latency_millis_dist,
    ),
    read_count_block_size_dist: minus(after.read_count_block_size_dist, before.read_count_block_size_dist),
  }
}

/** Milliseconds of a read, by size class. */
function averages(metrics: BackendMetrics): number[] {
  const { read_cumulative_latency_millis_dist: latencies, read_count_block_size_dist: counts } = metrics
  return counts.map((count, i) => Math.round(ratio(latencies[i] ?? 0, count)))
}
