import { checked, getLibrary } from './library.js'

const now = Buffer.alloc(8)

/** Nanoseconds since 1970 (CLOCK_REALTIME), to the kernel's precision: `Date.now()` has milliseconds only. */
export function getRealTimeNs(): bigint {
  checked('clock_gettime', getLibrary().nydus_real_time(now))
  return now.readBigInt64LE(0)
}
