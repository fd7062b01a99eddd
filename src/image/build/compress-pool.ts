import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { Compressor } from '../../common/codec.js'
import { type Fault, fault } from '../../common/fault.js'
import type { BlobCipher } from '../../erofs/image-tree.js'

/** Units (chunks, batches) that lie one after the other in `input`. Both buffers are transferred there and back. */
export interface CompressJob {
  readonly input: ArrayBuffer
  /** At least as big as the units together; 18 bytes for each more where they are encrypted. */
  readonly output: ArrayBuffer
  readonly sizes: readonly number[]
  readonly compressor: Compressor
  readonly cipher?: BlobCipher
}

export interface CompressReply {
  readonly input: ArrayBuffer
  readonly output: ArrayBuffer
  /** Stored bytes of each unit, one after the other in `output`. */
  readonly storedSizes?: readonly number[]
  readonly failure?: string
}

export type PackedUnits = Required<Omit<CompressReply, 'failure'>>

/** More threads would only wait for the one that reads the archive. */
const MAX_THREADS = 4

interface Waiting {
  resolve(packed: PackedUnits): void
  reject(failure: Fault): void
}

/**
 * Threads that compress chunks: zstd at level 3 takes longer than everything else in a conversion together.
 * They are started on first use and must be closed.
 */
export class CompressPool {
  readonly threads = Math.min(availableParallelism(), MAX_THREADS)
  readonly #workers: { worker: Worker; waiting: Waiting[] }[] = []
  #failure: Fault | undefined

  /** Runs a job on the thread with the least to do. */
  run(job: CompressJob): Promise<PackedUnits> {
    if (this.#failure) return Promise.reject(this.#failure)
    const slot = this.#pick()
    return new Promise((resolve, reject) => {
      slot.waiting.push({ resolve, reject })
      slot.worker.postMessage(job, [job.input, job.output])
    })
  }

  async close(): Promise<void> {
    this.#fail(fault('CANCELLED', 'the conversion was stopped'))
    await Promise.all(this.#workers.map(({ worker }) => worker.terminate()))
  }

  #pick(): { worker: Worker; waiting: Waiting[] } {
    const idlest = this.#workers.toSorted((a, b) => a.waiting.length - b.waiting.length)[0]
    if (idlest && (idlest.waiting.length === 0 || this.#workers.length >= this.threads)) return idlest
    const worker = new Worker(new URL('./compress-worker.js', import.meta.url), {
      resourceLimits: { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64 },
    })
    const waiting: Waiting[] = []
    worker.on('message', (reply: CompressReply) => {
      const next = waiting.shift()
      const { input, output, storedSizes, failure } = reply
      if (storedSizes) next?.resolve({ input, output, storedSizes })
      else next?.reject(fault('INTERNAL', `a chunk could not be compressed: ${failure ?? 'no reason given'}`))
    })
    worker.on('error', err => {
      this.#fail(fault('INTERNAL', 'a compression thread ended by itself', { cause: err }))
    })
    const slot = { worker, waiting }
    this.#workers.push(slot)
    return slot
  }

  #fail(failure: Fault): void {
    this.#failure ??= failure
    for (const { waiting } of this.#workers) for (const one of waiting.splice(0)) one.reject(this.#failure)
  }
}
