import { parentPort } from 'node:worker_threads'
import {
  type Compressor,
  UnitCipher,
  compressBound,
  compressInto,
  encryptedSize,
} from '../../common/codec.js'
import { asFault } from '../../common/fault.js'
import { collectGarbage, keepYoungSpaceSmall } from '../../common/garbage.js'
import type { CompressJob, CompressReply } from './compress-pool.js'

/**
 * lz4-napi allocates its result, twice as big as V8 believes, and V8 waits for 64 MiB of such before it looks: over
 * 100 MiB a thread. So this thread collects by itself: after every few jobs what is young, which is quick and nearly
 * all of it, and the rest now and then.
 */
const COLLECT_YOUNG_AFTER_BYTES = 2 << 20
const COLLECT_ALL_AFTER_BYTES = 16 << 20
const uncollectedBytes = { young: 0, all: 0 }

function collectAfter(jobBytes: number): void {
  uncollectedBytes.young += jobBytes
  uncollectedBytes.all += jobBytes
  if (uncollectedBytes.young < COLLECT_YOUNG_AFTER_BYTES) return
  uncollectedBytes.young = 0
  if (uncollectedBytes.all < COLLECT_ALL_AFTER_BYTES) {
    collectGarbage('young')
    return
  }
  uncollectedBytes.all = 0
  collectGarbage('all')
}

// The start of this thread has undone it in the main one.
keepYoungSpaceSmall()

/** The thread of a CompressPool: packs the units of a job one after the other into its output buffer. */
parentPort?.on('message', (job: CompressJob) => {
  const { input, output } = job
  let reply: CompressReply
  try {
    reply = { input, output, storedSizes: pack(job) }
  } catch (err) {
    reply = { input, output, failure: asFault(err).message }
  }
  const { byteLength } = input
  parentPort?.postMessage(reply, [input, output])
  if (job.compressor === 'lz4_block') collectAfter(byteLength)
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
