import { parentPort } from 'node:worker_threads'
import { compressBound, compressInto } from '../common/codec.js'
import { asFault } from '../common/fault.js'
import type { CompressJob, CompressReply } from './compress-pool.js'

/** The thread of a CompressPool: packs the chunks of a job one after the other into its output buffer. */
parentPort?.on('message', (job: CompressJob) => {
  const { input, output } = job
  let reply: CompressReply
  try {
    reply = { input, output, storedSizes: pack(job) }
  } catch (err) {
    reply = { input, output, failure: asFault(err).message }
  }
  parentPort?.postMessage(reply, [input, output])
})

/** Reused: garbage of a thread is collected late, and would double the memory of a conversion. */
let scratch = new Uint8Array(0)

function pack({ input, output, sizes, compressor }: CompressJob): number[] {
  const out = new Uint8Array(output)
  let from = 0
  let to = 0
  return sizes.map(size => {
    const raw = new Uint8Array(input, from, size)
    if (scratch.length < compressBound(size)) scratch = new Uint8Array(compressBound(size))
    const length = compressInto(compressor, raw, scratch)
    // Readers take a chunk for raw when both sizes are equal, so what does not shrink is stored as it is.
    const stored = length < size ? scratch.subarray(0, length) : raw
    out.set(stored, to)
    from += size
    to += stored.length
    return stored.length
  })
}
