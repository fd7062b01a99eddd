import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { parentPort } from 'node:worker_threads'
import {
  type Compressor,
  UnitCipher,
  compressBound,
  compressInto,
  encryptedSize,
} from '../../common/codec.js'
import { asFault } from '../../common/fault.js'
import type { CompressJob, CompressReply } from './compress-pool.js'

/**
 * lz4-napi allocates its result, twice as big as V8 believes, and V8 waits for 64 MiB of such before it looks: over
 * 100 MiB a thread. So this thread collects by itself after every few jobs.
 */
const COLLECT_AFTER_BYTES = 8 << 20
setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void
let uncollectedBytes = 0

/** The thread of a CompressPool: packs the units of a job one after the other into its output buffer. */
parentPort?.on('message', (job: CompressJob) => {
  const { input, output } = job
  let reply: CompressReply
  try {
    reply = { input, output, storedSizes: pack(job) }
  } catch (err) {
    reply = { input, output, failure: asFault(err).message }
  }
  uncollectedBytes += input.byteLength
  parentPort?.postMessage(reply, [input, output])
  if (job.compressor !== 'lz4_block' || uncollectedBytes < COLLECT_AFTER_BYTES) return
  uncollectedBytes = 0
  collectGarbage()
})

/** Reused: garbage of a thread is collected late, and would double the memory of a conversion. */
let scratch = new Uint8Array(0)

function pack({ input, output, sizes, compressor, cipher }: CompressJob): number[] {
  const out = new Uint8Array(output)
  const unitCipher = cipher && new UnitCipher(cipher.key, cipher.iv)
  let from = 0
  let to = 0
  return sizes.map(size => {
    const unit = packUnit(new Uint8Array(input, from, size), compressor, unitCipher)
    out.set(unit, to)
    from += size
    to += unit.length
    return unit.length
  })
}

/** Readers take a unit for raw when both its sizes are equal, so what does not shrink is stored as it is. */
function packUnit(raw: Uint8Array, compressor: Compressor, cipher: UnitCipher | undefined): Uint8Array {
  if (compressor === 'none') return cipher?.encrypt(raw) ?? raw
  if (scratch.length < compressBound(raw.length)) scratch = new Uint8Array(compressBound(raw.length))
  const length = compressInto(compressor, raw, scratch)
  const packed = (cipher ? encryptedSize(length) : length) < raw.length ? scratch.subarray(0, length) : raw
  return cipher?.encrypt(packed) ?? packed
}
