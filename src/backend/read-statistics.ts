/** How the reads of a backend went, in upstream's classes (nydusd.md 3.6). */
import { isFault } from '../common/fault.js'
import { SIZE_CLASSES, sizeClass } from '../common/size-class.js'
import type { BlobReader, ReadOptions } from './reader.js'

/** Upper bounds of the latency classes, in milliseconds, inclusive. */
const LATENCY_LIMITS_MS = [1, 20, 50, 100, 500, 1000, 2000, Infinity]

/** Values only grow. Classes are indexed from small to large. */
export class ReadStatistics {
  reads = 0
  errors = 0
  /** Bytes asked for, also by reads that failed. */
  requestedBytes = 0
  latencyMs = 0
  readonly readsBySize = zeros(SIZE_CLASSES)
  readonly latencyMsBySize = zeros(SIZE_CLASSES)
  /** By size class, then by latency class. */
  readonly readsBySizeAndLatency = Array.from({ length: SIZE_CLASSES }, () => zeros(LATENCY_LIMITS_MS.length))

  count(lengthBytes: number, durationMs: number, failed: boolean): void {
    const size = sizeClass(lengthBytes)
    const latency = LATENCY_LIMITS_MS.findIndex(limit => durationMs <= limit)
    const milliseconds = Math.round(durationMs)
    this.reads++
    if (failed) this.errors++
    this.requestedBytes += lengthBytes
    this.latencyMs += milliseconds
    add(this.readsBySize, size, 1)
    add(this.latencyMsBySize, size, milliseconds)
    add(this.readsBySizeAndLatency[size] ?? [], latency, 1)
  }
}

/** A reader whose reads are counted. One that was cancelled is none. */
export function countReads(reader: BlobReader, statistics: ReadStatistics): BlobReader {
  return {
    blobId: reader.blobId,
    size: options => reader.size(options),
    read: async (offset: number, length: number, options: ReadOptions) => {
      const began = performance.now()
      try {
        const bytes = await reader.read(offset, length, options)
        statistics.count(length, performance.now() - began, false)
        return bytes
      } catch (err) {
        if (!isFault(err, 'CANCELLED')) statistics.count(length, performance.now() - began, true)
        throw err
      }
    },
  }
}

function add(classes: number[], index: number, amount: number): void {
  classes[index] = (classes[index] ?? 0) + amount
}

function zeros(length: number): number[] {
  return new Array<number>(length).fill(0)
}
