import { parentPort } from 'node:worker_threads'
import { compress } from '../common/codec.js'
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

function pack({ input, output, sizes, compressor }: CompressJob): number[] {
  const out = new Uint8Array(output)
  let from = 0
  let to = 0
  return sizes.map(size => {
    const raw = new Uint8Array(input, from, size)
    const packed = compress(compressor, raw)
    // Readers take a chunk for raw when both sizes are equal, so what does not shrink is stored as it is.
    const stored = packed.length < size ? packed : raw
    out.set(stored, to)
    from += size
    to += stored.length
    return stored.length
  })
}
