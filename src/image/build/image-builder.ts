import type { Compressor } from '../../common/codec.js'
import type { Digester } from '../../common/digest.js'
import { emptyBlob } from '../../erofs/empty-blob.js'
import { encodeImage } from '../../erofs/encode-image.js'
import { BLOB_FEATURES, PLACEHOLDER_BLOB_ID } from '../../erofs/format.js'
import type { BlobCipher, DirectoryInode, ImageBlob, RafsImage } from '../../erofs/image-tree.js'
import type { LayerLimits } from '../tar/limits.js'
import type { BlobOutput } from './blob-output.js'
import { BlobSections } from './blob-sections.js'
import { BlobStream } from './blob-stream.js'
import { type ChunkDictionary, ChunkWriter } from './chunk-writer.js'
import type { CompressPool } from './compress-pool.js'
import { type LayerEntry, LayerTree } from './layer-tree.js'
import { findPrefetched, prefetchMatcher } from './prefetch.js'

/** Where the entries of a layer come from: a tar archive (`readTar`) or a directory (`DirectorySource`). */
export interface LayerSource {
  /** All of them in order, an entry after what it links to. Called twice for the prefetch policy `blob`. */
  entries(): AsyncIterable<LayerEntry>
}

export interface BuildOptions {
  readonly version: 5 | 6
  /** Power of two, 4 KiB to 16 MiB. */
  readonly chunkSize: number
  readonly compressor: Compressor
  readonly digester: Digester
  /** Files of less than half of it are compressed together; 0: each by itself. RAFS v6 only. */
  readonly batchSize: number
  /** Chunks lie on uncompressed multiples of 4096. RAFS v6 does so in any case. */
  readonly alignedChunks: boolean
  /** RAFS v6 only. */
  readonly cipher?: BlobCipher
  /** The bootstrap goes into the blob. */
  readonly inlineBootstrap: boolean
  /** The blob gets chunk digests and a table of contents. RAFS v6 only. */
  readonly toc: boolean
  /** Instead of the digest of the blob; not with an inlined bootstrap. */
  readonly blobId?: string
  /** Where the blob will stand in what readers take it from. */
  readonly blobOffset: number
  readonly explicitOwners: boolean
  /** `fs` lists the paths in the bootstrap; `blob` puts the data of those files first in the blob. */
  readonly prefetchPolicy: 'none' | 'fs' | 'blob'
  /** Absolute paths. */
  readonly prefetchPaths: readonly string[]
  readonly limits: LayerLimits
  /** Chunks that need not be stored again. */
  readonly knownChunks?: ChunkDictionary
  /** Makes the image's tree of the layer's own; without it they are the same. */
  readonly overlay?: (layer: DirectoryInode) => DirectoryInode
}

/** A blob and the bootstrap of an image whose topmost layer it is. */
export interface BuiltImage {
  /** The blob's file; undefined where nothing had to be written. */
  readonly path: string | undefined
  /** 64 hex digits. The sha256 of the blob, unless it has digests and its bootstrap stands apart, or an id was given. */
  readonly blobId: string
  readonly sizeBytes: number
  /** The layer's own tree; whiteouts are ordinary files in it. */
  readonly root: DirectoryInode
  /** As a bootstrap outside of the blob lists it; undefined for a layer without data of its own. */
  readonly blob: ImageBlob | undefined
  /** What caches keep of the blob's metadata; undefined as above, and for RAFS v5. */
  readonly cacheMeta: Buffer | undefined
  readonly image: Omit<RafsImage, 'blobs'>
  /** The bootstrap that stands apart, or the one in the blob. */
  readonly bootstrap: Buffer
  /** Blobs of the bootstrap, in its order. */
  readonly blobs: readonly ImageBlob[]
  /** Extended attributes that no image can hold. */
  readonly droppedXattrs: number
}

/**
 * Builds one layer: its data blob (rafs.md 2), written as a stream, and the bootstrap of it alone or laid over what it is
 * built upon. Equal input gives equal bytes, unless the cipher differs. Nothing is left of the blob when it fails.
 * @throws TAR_*, IMAGE_TOO_LARGE, FILE_UNREADABLE and what source and output throw
 */
export async function buildImage(
  source: LayerSource,
  output: BlobOutput,
  options: BuildOptions,
  pool: CompressPool,
): Promise<BuiltImage> {
  try {
    return await new Build(source, output, options, pool).run()
  } finally {
    await output.abort()
  }
}

class Build {
  readonly #source: LayerSource
  readonly #output: BlobOutput
  readonly #options: BuildOptions
  readonly #stream: BlobStream
  readonly #blob: ImageBlob
  readonly #writer: ChunkWriter
  readonly #sections: BlobSections
  readonly #tree: LayerTree
  #cacheMeta: Buffer | undefined

  constructor(source: LayerSource, output: BlobOutput, options: BuildOptions, pool: CompressPool) {
    this.#source = source
    this.#output = output
    this.#options = options
    this.#stream = new BlobStream(output, options.blobOffset)
    this.#blob = newBlob(options)
    const { batchSize, knownChunks } = options
    const chunkOptions = {
      aligned: isAligned(options),
      batchSize,
      ...(knownChunks && { known: knownChunks }),
    }
    this.#writer = new ChunkWriter(this.#stream, this.#blob, chunkOptions, pool)
    this.#sections = new BlobSections(this.#stream, this.#blob, {
      headers: hasHeaders(options),
      toc: options.toc,
    })
    this.#tree = new LayerTree(options.limits)
  }

  async run(): Promise<BuiltImage> {
    await this.#addEntries()
    if (this.#writer.chunks.length > 0) await this.#endData()
    return this.#options.inlineBootstrap ? this.#finishInline() : this.#finishApart()
  }

  async #addEntries(): Promise<void> {
    const { prefetchPolicy, prefetchPaths, explicitOwners } = this.#options
    if (prefetchPolicy === 'blob' && prefetchPaths.length > 0) {
      const isWanted = prefetchMatcher(prefetchPaths)
      for await (const entry of this.#source.entries()) {
        if (entry.type === 'regular' && isWanted(entry.path))
          await this.#writer.addFile(entry.body, entry.sizeBytes)
      }
      await this.#writer.flush()
      this.#blob.prefetchSize = this.#stream.sizeBytes
    }
    // What was stored above is found again by its digests.
    for await (const entry of this.#source.entries()) {
      const chunks = entry.type === 'regular' ? await this.#writer.addFile(entry.body, entry.sizeBytes) : []
      // Owners that mean nothing must not make a difference.
      this.#tree.add(explicitOwners ? entry : { ...entry, uid: 0, gid: 0 }, chunks)
    }
    await this.#writer.flush()
  }

  async #endData(): Promise<void> {
    const { version, toc, inlineBootstrap, blobOffset } = this.#options
    await this.#sections.endData(blobOffset)
    if (version === 6) this.#cacheMeta = await this.#sections.appendMeta(this.#writer)
    if (toc) await this.#sections.appendDigests(this.#writer, inlineBootstrap)
  }

  /** The bootstrap in the blob knows neither the blob's id nor what comes after it. */
  async #finishInline(): Promise<BuiltImage> {
    this.#blob.compressedSize = this.#stream.sizeBytes
    const { bytes, image, blobs } = this.#encode()
    await this.#sections.appendBootstrap(bytes)
    if (this.#options.toc) await this.#sections.appendToc()
    this.#blob.id = this.#stream.hash.digest('hex')
    this.#blob.compressedSize = this.#stream.sizeBytes
    this.#blob.features &= ~BLOB_FEATURES.inlinedFsMeta
    return this.#result({ bytes, image, blobs, path: await this.#output.finish(this.#blob.id) })
  }

  async #finishApart(): Promise<BuiltImage> {
    const { toc, blobId } = this.#options
    if (toc && this.#writer.chunks.length > 0) await this.#sections.appendToc()
    this.#blob.id = blobId ?? this.#stream.hash.digest('hex')
    this.#blob.compressedSize = this.#stream.sizeBytes
    const encoded = this.#encode()
    const path = this.#stream.sizeBytes > 0 ? await this.#output.finish(this.#blob.id) : undefined
    return this.#result({ ...encoded, path })
  }

  #encode(): Pick<BuiltImage, 'image' | 'blobs'> & { bytes: Buffer } {
    const { version, chunkSize, compressor, digester, explicitOwners, overlay } = this.#options
    const own = this.#tree.root
    const root = overlay ? overlay(own) : own
    const { prefetchPolicy, prefetchPaths } = this.#options
    const prefetch = prefetchPolicy === 'fs' ? findPrefetched(root, prefetchPaths) : []
    const image = { version, chunkSize, compressor, digester, explicitOwners, root, prefetch }
    return { image, ...encodeImage(image) }
  }

  #result(done: Pick<BuiltImage, 'image' | 'blobs' | 'path'> & { bytes: Buffer }): BuiltImage {
    return {
      path: done.path,
      blobId: this.#blob.id,
      sizeBytes: this.#stream.sizeBytes,
      root: this.#tree.root,
      blob: this.#writer.chunks.length > 0 ? this.#blob : undefined,
      cacheMeta: this.#cacheMeta,
      image: done.image,
      bootstrap: done.bytes,
      blobs: done.blobs,
      droppedXattrs: this.#tree.droppedXattrs,
    }
  }
}

function isAligned({ version, alignedChunks }: BlobOptions): boolean {
  return version === 6 || alignedChunks
}

function hasHeaders({ inlineBootstrap, toc }: BlobOptions): boolean {
  return inlineBootstrap || toc
}

/** What decides how a blob is written. */
export type BlobOptions = Pick<
  BuildOptions,
  | 'version'
  | 'chunkSize'
  | 'compressor'
  | 'digester'
  | 'cipher'
  | 'toc'
  | 'batchSize'
  | 'alignedChunks'
  | 'inlineBootstrap'
>

/** A blob that nothing was written to yet. */
export function newBlob(options: BlobOptions): ImageBlob {
  const { chunkSize, compressor, digester, cipher, toc } = options
  const { aligned, inlinedFsMeta, chunkInfoV2, inlinedChunkDigest, batch, encrypted } = BLOB_FEATURES
  const { hasTarHeader, hasToc, capTarToc } = BLOB_FEATURES
  const features =
    capTarToc |
    (isAligned(options) ? aligned : 0) |
    (options.inlineBootstrap ? inlinedFsMeta : 0) |
    (hasHeaders(options) ? hasTarHeader : 0) |
    (toc ? hasToc | inlinedChunkDigest : 0) |
    (options.batchSize > 0 ? batch | chunkInfoV2 : 0) |
    (cipher ? encrypted | chunkInfoV2 : 0)
  return emptyBlob({
    id: PLACEHOLDER_BLOB_ID,
    chunkSize,
    compressor,
    digester,
    features,
    ...(cipher && { cipher }),
  })
}
