import { setTimeout as delay } from 'node:timers/promises'
import { fault } from '../common/fault.js'
import type { Descriptor } from '../oci/manifest.js'
import type { Labels } from './containerd.js'
import { type Duplex, type Rpc, hasStatus } from './rpc.js'

/** Opens the bytes of an object, from its first one. Called only when they are needed. */
export type ObjectSource = () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>

const STAT = 0
const WRITE = 1
const COMMIT = 2

const RECORD_TIMEOUT_MS = 60_000
const WRITE_TIMEOUT_MS = 60 * 60_000
/** Someone else is writing the same object: asked again after this long, doubled up to the maximum. */
const LOCKED_FIRST_MS = 100
const LOCKED_MAX_MS = 2_000
/** Data messages sent ahead of containerd's answers, at most {@link PART_BYTES} each. */
const MAX_UNANSWERED = 4
const PART_BYTES = 1024 * 1024

interface WriteRequest {
  action: number
  ref?: string
  total?: number
  expected?: string
  offset?: number
  data?: Uint8Array
  labels?: Labels
}

interface WriteResponse {
  action: number
  offset: number
}

/** containerd's content store, as far as a pull fills it. */
export class ContentStore {
  readonly #rpc: Rpc

  constructor(rpc: Rpc) {
    this.#rpc = rpc
  }

  /**
   * Makes sure that the object is in the store and carries `labels`: containerd checks size and digest before it is
   * visible. Of several writers of one object one writes and the others wait for it. What a failure leaves is aborted.
   * @returns false when the object was there already
   * @throws CONTAINERD_ERROR, DIGEST_MISMATCH, CANCELLED, and whatever `source` throws
   */
  async ensure(
    object: Descriptor,
    labels: Labels,
    source: ObjectSource,
    signal: AbortSignal,
    onBytes: (count: number) => void = () => undefined,
  ): Promise<boolean> {
    for (let waitMs = LOCKED_FIRST_MS; ; waitMs = Math.min(waitMs * 2, LOCKED_MAX_MS)) {
      try {
        await this.#write(object, labels, source, signal, onBytes)
        return true
      } catch (err) {
        if (hasStatus(err, 'ALREADY_EXISTS')) {
          await this.updateLabels(object.digest, labels)
          return false
        }
        if (!isLocked(err)) throw err
        await delay(waitMs, undefined, { signal }).catch(() => {
          throw fault('CANCELLED', 'cancelled')
        })
      }
    }
  }

  /** Sets these labels and leaves the others. */
  async updateLabels(digest: string, labels: Labels): Promise<void> {
    const updateMask = { paths: Object.keys(labels).map(key => `labels.${key}`) }
    if (updateMask.paths.length === 0) return
    await this.#rpc.unary('Content', 'Update', { info: { digest, labels }, updateMask }, RECORD_TIMEOUT_MS)
  }

  async #write(
    object: Descriptor,
    labels: Labels,
    source: ObjectSource,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<void> {
    const ref = `rpull-${object.digest}`
    const stream = new Exchange(this.#rpc, signal)
    let mine = false
    try {
      const { offset: held } = await stream.ask({
        action: STAT,
        ref,
        total: object.size,
        expected: object.digest,
      })
      mine = true
      let offset = held
      // All of it is held where another namespace has the object. Else from 0 on, which drops what a killed write left.
      if (held !== object.size) {
        offset = 0
        for await (const data of parts(source())) {
          await stream.send({ action: WRITE, offset, data })
          offset += data.length
          if (offset > object.size) throw tooLong(object)
          onBytes(data.length)
        }
      }
      await stream.commit({ action: COMMIT, total: object.size, expected: object.digest, offset, labels })
    } catch (err) {
      stream.cancel()
      // The first error is the one to tell; what an abort cannot remove goes with the lease.
      if (mine) await this.#rpc.unary('Content', 'Abort', { ref }, RECORD_TIMEOUT_MS).catch(() => undefined)
      throw err
    }
  }
}

/** Another call is writing under the same reference. */
function isLocked(err: unknown): boolean {
  return hasStatus(err, 'UNAVAILABLE') && err instanceof Error && err.message.includes('locked')
}

/** One Write call: questions answered in turn, data sent a bounded way ahead. */
class Exchange {
  readonly #rpc: Rpc
  readonly #stream: Duplex<WriteRequest, WriteResponse>
  readonly #answers: AsyncIterator<WriteResponse>
  readonly #failed: Promise<never>
  readonly #onAbort = (): void => this.#stream.cancel()
  readonly #signal: AbortSignal
  #unanswered = 0

  constructor(rpc: Rpc, signal: AbortSignal) {
    this.#rpc = rpc
    this.#signal = signal
    this.#stream = rpc.duplex<WriteRequest, WriteResponse>('Content', 'Write', WRITE_TIMEOUT_MS)
    this.#failed = new Promise((_, reject) => {
      this.#stream.on('error', err => reject(this.#rpc.toFault(err, 'Content.Write')))
    })
    this.#failed.catch(() => undefined)
    this.#answers = (this.#stream as AsyncIterable<WriteResponse>)[Symbol.asyncIterator]()
    if (signal.aborted) this.#stream.cancel()
    else signal.addEventListener('abort', this.#onAbort)
  }

  async ask(request: WriteRequest): Promise<WriteResponse> {
    await this.#put(request)
    return this.#answer()
  }

  async send(request: WriteRequest): Promise<void> {
    await this.#put(request)
    while (this.#unanswered > MAX_UNANSWERED) await this.#answer()
  }

  async commit(request: WriteRequest): Promise<void> {
    await this.#put(request)
    while ((await this.#answer()).action !== COMMIT);
    this.#signal.removeEventListener('abort', this.#onAbort)
    this.#stream.end()
  }

  cancel(): void {
    this.#signal.removeEventListener('abort', this.#onAbort)
    this.#stream.cancel()
  }

  async #put(request: WriteRequest): Promise<void> {
    this.#unanswered++
    const sent = new Promise<void>(resolve => this.#stream.write(request, () => resolve()))
    await Promise.race([sent, this.#failed])
  }

  async #answer(): Promise<WriteResponse> {
    // The iterator tells an error of the stream too, but as gRPC has it: the fault comes first or right after.
    const next = await Promise.race([this.#answers.next().catch(() => this.#failed), this.#failed])
    if (next.done) throw fault('CONTAINERD_ERROR', 'containerd ended a write before it was committed')
    this.#unanswered--
    return next.value
  }
}

function tooLong(object: Descriptor): Error {
  return fault(
    'DIGEST_MISMATCH',
    `${object.digest} is longer than the ${object.size} bytes that its manifest says: push the image again`,
  )
}

/** The same bytes in pieces of {@link PART_BYTES}, the last one shorter: fewer messages than a socket's reads. */
async function* parts(chunks: ReturnType<ObjectSource>): AsyncGenerator<Uint8Array> {
  let part = Buffer.allocUnsafe(PART_BYTES)
  let used = 0
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length;) {
      const count = Math.min(PART_BYTES - used, chunk.length - at)
      part.set(chunk.subarray(at, at + count), used)
      used += count
      at += count
      if (used === PART_BYTES) {
        yield part
        part = Buffer.allocUnsafe(PART_BYTES)
        used = 0
      }
    }
  }
  if (used > 0) yield part.subarray(0, used)
}
