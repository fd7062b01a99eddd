import type { BlobReader, ReadOptions } from '../backend/reader.js'
import { asFault, fault, type Fault } from '../common/fault.js'
import type { BlobLayout, DecodedChunk, LayoutSource } from './layout.js'

/** What one image brings to a blob that several images may share. */
export interface Origin {
  readonly reader: BlobReader
  readonly layoutSource: LayoutSource
}

interface Entry {
  readonly origin: Origin
  layout: BlobLayout | undefined
  loading: Promise<BlobLayout> | undefined
}

/**
 * The origins of one blob. All describe the same chunks, but each image may know digests of its own chunks only, and
 * each has its own way to the backend; so a chunk is checked by whoever knows it, and fetched by whoever reaches it.
 */
export class LayoutSet {
  readonly #entries: Entry[] = []
  readonly #sizeBytes: number
  readonly #chunkCount: number | undefined

  constructor(sizeBytes: number, chunkCount: number | undefined) {
    this.#sizeBytes = sizeBytes
    this.#chunkCount = chunkCount
  }

  /** Adds an origin, with its layout where that needs no network. @throws BLOB_META_INVALID */
  async add(origin: Origin): Promise<void> {
    const layout = await origin.layoutSource.loadLocal?.()
    this.#entries.push({ origin, layout: layout && this.#join(layout), loading: undefined })
  }

  remove(reader: BlobReader): void {
    const at = this.#entries.findIndex(entry => entry.origin.reader === reader)
    if (at >= 0) this.#entries.splice(at, 1)
  }

  /** Where the chunks are: of whichever layout is loaded. */
  get geometry(): BlobLayout | undefined {
    return this.#entries.find(entry => entry.layout)?.layout
  }

  get allLoaded(): boolean {
    return this.#entries.every(entry => entry.layout)
  }

  /** Loads what is not loaded, each once however many ask. One that fails is tried again at the next call. */
  async load(): Promise<void> {
    await Promise.all(
      this.#entries.map(async entry => {
        if (entry.layout) return
        entry.loading ??= entry.origin.layoutSource.load().finally(() => (entry.loading = undefined))
        const layout = await entry.loading
        entry.layout ??= this.#join(layout)
      }),
    )
  }

  verifiable(chunk: number): boolean {
    return this.#entries.some(entry => entry.layout?.verifiable(chunk))
  }

  /** @throws CHUNK_DIGEST_MISMATCH */
  verify(decoded: DecodedChunk): void {
    const entry = this.#entries.find(({ layout }) => layout?.verifiable(decoded.chunk))
    ;(entry?.layout ?? this.geometry)?.verify(decoded)
  }

  /** Reads stored bytes through the first reader that yields them. @throws the first reader's fault */
  async fetch(offset: number, length: number, options: ReadOptions): Promise<Uint8Array> {
    let first: Fault | undefined
    const { into, ...rest } = options
    for (const reader of new Set(this.#entries.map(entry => entry.origin.reader))) {
      try {
        // What the first has told to be there is being stored: the next one must not write over it.
        const memory = first || !into ? {} : { into }
        const stored = await reader.read(offset, length, { ...rest, ...memory })
        if (stored.length === length) return stored
        throw fault('REGISTRY_PROTOCOL', `the backend gave ${stored.length} of ${length} bytes`)
      } catch (err) {
        first ??= asFault(err)
        if (options.signal?.aborted) break
      }
    }
    throw first ?? fault('CANCELLED', 'the blob was closed')
  }

  /** The layout that stands for this one from now on. */
  #join(layout: BlobLayout): BlobLayout {
    this.#check(layout)
    const { geometry } = this
    if (!geometry?.adopt) return layout
    geometry.adopt(layout)
    return geometry
  }

  #check(layout: BlobLayout): void {
    const { geometry } = this
    const chunks = geometry?.chunkCount ?? this.#chunkCount ?? layout.chunkCount
    if (layout.uncompressedSize > this.#sizeBytes || layout.chunkCount !== chunks) {
      throw fault(
        'BLOB_META_INVALID',
        `the blob's metadata has ${layout.chunkCount} chunks in ${layout.uncompressedSize} bytes, ` +
          `but the image says ${chunks} in ${this.#sizeBytes}: convert the image again`,
      )
    }
  }
}
