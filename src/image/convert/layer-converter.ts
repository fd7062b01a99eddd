import { createReadStream } from 'node:fs'
import { rename } from 'node:fs/promises'
import { asFault, fault } from '../../common/fault.js'
import { limitBufferGarbage } from '../../common/garbage.js'
import type { BlobPool } from '../../erofs/blob-pool.js'
import { type BlobTarget, type ImageSource, putBlobOnce } from '../../oci/image-store.js'
import type { Descriptor } from '../../oci/manifest.js'
import { type LayerOptions, buildLayer } from '../build/build-layer.js'
import { CompressPool } from '../build/compress-pool.js'
import type { BuildCache } from './build-cache.js'
import { type MergeableLayer, encodeLayerRecord, parseLayerRecord } from './layer-record.js'
import type { WorkDirectory } from './work-directory.js'

export interface LayerConverterOptions {
  /** Where the data blobs go. */
  readonly target: BlobTarget
  readonly layer: LayerOptions
  readonly directory: WorkDirectory
  readonly cache: BuildCache | undefined
  /** Blobs that several layers refer to are one object. */
  readonly pool: BlobPool
  readonly signal: AbortSignal
}

/** Where a converted layer came from: built now, the same as one before, an interrupted run, or the build cache. */
export type LayerOrigin = 'built' | 'same' | 'resumed' | 'cached'

export interface ConvertedLayer {
  readonly layer: MergeableLayer
  readonly origin: LayerOrigin
}

const READ_BYTES = 1 << 20

/**
 * Turns layers into data blobs at the target, each source layer once, whatever images it is part of. A layer is built
 * while the one before it is uploaded.
 */
export class LayerConverter {
  uploadedBytes = 0
  readonly #options: LayerConverterOptions
  readonly #pool = new CompressPool()
  readonly #stop = new AbortController()
  readonly #signal: AbortSignal
  /** By source digest and by own digest: two layers may give the same blob, and two blobs of one id must be one. */
  readonly #known = new Map<string, MergeableLayer>()
  #upload = Promise.resolve()

  constructor(options: LayerConverterOptions) {
    this.#options = options
    this.#signal = AbortSignal.any([options.signal, this.#stop.signal])
  }

  /** Of the conversion and of the failure that ended it. */
  get signal(): AbortSignal {
    return this.#signal
  }

  /** @param onRead - told how many bytes of the source layer have been read */
  async convert(
    source: ImageSource,
    descriptor: Descriptor,
    index: number,
    onRead: (bytes: number) => void,
  ): Promise<ConvertedLayer> {
    const { digest } = descriptor
    const known = this.#known.get(digest)
    if (known) return { layer: known, origin: 'same' }
    const resumed = await this.#resume(digest)
    if (resumed) return { layer: this.#remember(digest, resumed), origin: 'resumed' }
    const cached = await this.#options.cache?.take(digest, this.#options.target, this.#signal)
    if (cached) return { layer: this.#remember(digest, cached), origin: 'cached' }
    const built = await this.#build(source, descriptor, index, onRead)
    const layer = this.#remember(digest, built)
    // What comes out the same as another layer is uploaded already.
    if (layer === built) await this.#beginUpload(digest, built)
    return { layer, origin: 'built' }
  }

  /** Waits until all layers are at the target. */
  async settle(): Promise<void> {
    await this.#upload
  }

  /** Ends what is under way because of a failure, and frees the workers. */
  async close(failure?: unknown): Promise<void> {
    if (failure !== undefined) this.#stop.abort(failure)
    await this.#upload.catch(() => undefined)
    await this.#pool.close()
  }

  #remember(sourceDigest: string, layer: MergeableLayer): MergeableLayer {
    const one = this.#known.get(layer.digestHex) ?? layer
    this.#known.set(sourceDigest, one).set(one.digestHex, one)
    return one
  }

  /** The layer as an interrupted run left it: at the target, or built and not uploaded to its end. */
  async #resume(digest: string): Promise<MergeableLayer | undefined> {
    const { directory, target, pool } = this.#options
    const files = fileNames(digest)
    const bytes = await directory.read(files.record)
    if (!bytes) return undefined
    const layer = await parseLayerRecord(bytes, pool).catch(() => undefined)
    if (!layer) return undefined
    const blob = { digest: `sha256:${layer.digestHex}`, size: layer.sizeBytes }
    if ((await directory.sizeOf(files.blob)) === layer.sizeBytes) await this.#beginUpload(digest, layer)
    else if (!(await target.hasBlob(blob, { signal: this.#signal }))) return undefined
    return layer
  }

  async #build(
    source: ImageSource,
    { digest, size }: Descriptor,
    index: number,
    onRead: (bytes: number) => void,
  ): Promise<MergeableLayer> {
    const { layer, directory } = this.#options
    const stream = source.streamBlob({ digest, size }, { signal: this.#signal })
    async function* observed(): AsyncGenerator<Uint8Array> {
      let doneBytes = 0
      for await (const piece of stream) {
        yield piece
        doneBytes += piece.length
        onRead(doneBytes)
      }
    }
    const files = fileNames(digest)
    try {
      await directory.remove(files.partial)
      const built = await buildLayer(observed(), directory.file(files.partial), layer, this.#pool)
      await rename(directory.file(files.partial), directory.file(files.blob))
      limitBufferGarbage()
      // From here on an interrupted conversion need not build it again.
      await directory.write(files.record, await encodeLayerRecord(built, layer))
      return built
    } catch (err) {
      const failure = asFault(err)
      throw fault(failure.code, `layer ${index + 1} (${digest.slice(0, 19)}…): ${failure.message}`, {
        cause: failure,
        context: { ...failure.context, layer: digest },
        retryable: failure.retryable,
      })
    }
  }

  async #beginUpload(sourceDigest: string, layer: MergeableLayer): Promise<void> {
    await this.#upload
    this.#upload = this.#uploadLayer(sourceDigest, layer)
    // It is awaited before the next one; until then a failure is nobody's.
    this.#upload.catch(() => undefined)
  }

  async #uploadLayer(sourceDigest: string, { digestHex, sizeBytes }: MergeableLayer): Promise<void> {
    const { target, directory } = this.#options
    const files = fileNames(sourceDigest)
    const blob = { digest: `sha256:${digestHex}`, size: sizeBytes }
    const content = (start: number): AsyncIterable<Uint8Array> =>
      readPieces(directory.file(files.blob), start)
    const options = { signal: this.#signal, session: directory.session(files.session) }
    this.uploadedBytes += await putBlobOnce(target, blob, content, options)
    await directory.remove(files.blob)
    await directory.remove(files.session)
  }
}

async function* readPieces(file: string, start: number): AsyncGenerator<Uint8Array> {
  const pieces = createReadStream(file, { start, highWaterMark: READ_BYTES })
  for await (const piece of pieces as AsyncIterable<Uint8Array>) {
    yield piece
    limitBufferGarbage()
  }
}

function fileNames(sourceDigest: string): Record<'partial' | 'blob' | 'record' | 'session', string> {
  const hex = sourceDigest.slice('sha256:'.length)
  return { partial: `${hex}.part`, blob: `${hex}.blob`, record: `${hex}.layer`, session: `${hex}.upload` }
}
