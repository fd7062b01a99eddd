import type { Compressor } from '../../common/codec.js'
import type { Digester } from '../../common/digest.js'
import type { DirectoryInode, ImageBlob } from '../../erofs/image-tree.js'
import { type ByteStream, decompressLayer } from '../tar/layer-stream.js'
import type { LayerLimits } from '../tar/limits.js'
import { readTar } from '../tar/tar-reader.js'
import { openBlobFile } from './blob-output.js'
import type { ChunkDictionary } from './chunk-writer.js'
import type { CompressPool } from './compress-pool.js'
import { buildImage } from './image-builder.js'

export interface LayerOptions {
  readonly chunkSize: number
  readonly compressor: Compressor
  readonly digester: Digester
  readonly limits: LayerLimits
  readonly version: 5 | 6
  /** Files of less than half of it are compressed together; 0: each alone. RAFS v6 only. */
  readonly batchSize: number
  /** Chunks of other images that need not be stored again. */
  readonly knownChunks?: ChunkDictionary
}

/** A layer as it goes to a registry, and what the merged bootstrap needs of it. */
export interface BuiltLayer {
  /** The data blob's file. */
  readonly path: string
  /** sha256 of that file, 64 hex digits: also the blob's id. */
  readonly digestHex: string
  readonly sizeBytes: number
  /** The layer's own tree; whiteouts are ordinary files in it. */
  readonly root: DirectoryInode
  /** Undefined for a layer without file data. */
  readonly blob: ImageBlob | undefined
  /** What caches keep of the blob's metadata; undefined as above. */
  readonly cacheMeta: Buffer | undefined
  readonly droppedXattrs: number
}

/**
 * Turns an OCI layer (tar, tar+gzip or tar+zstd) into a data blob in the file at `path`: chunks in the order of the
 * archive and the layer's own bootstrap; in RAFS v6 also chunk infos, digests and a table of contents (rafs.md 2).
 */
export async function buildLayer(
  source: ByteStream,
  path: string,
  options: LayerOptions,
  pool: CompressPool,
): Promise<BuiltLayer> {
  const built = await buildImage(
    { entries: () => readTar(decompressLayer(source, options.limits), options.limits) },
    await openBlobFile(path),
    {
      ...options,
      alignedChunks: false,
      inlineBootstrap: true,
      toc: options.version === 6,
      blobOffset: 0,
      explicitOwners: true,
      prefetchPolicy: 'none',
      prefetchPaths: [],
    },
    pool,
  )
  const { blobId, sizeBytes, root, blob, cacheMeta, droppedXattrs } = built
  return { path, digestHex: blobId, sizeBytes, root, blob, cacheMeta, droppedXattrs }
}
