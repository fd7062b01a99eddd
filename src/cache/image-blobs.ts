/** The blobs of an image of either version, as a chunk cache wants to know them. */
import type { BlobReader } from '../backend/reader.js'
import type { ByteSource } from '../common/byte-source.js'
import type { Logger } from '../common/log.js'
import { requireServable } from '../erofs/blob-table.js'
import { Bootstrap } from '../erofs/bootstrap.js'
import { detectFormat } from '../erofs/superblock.js'
import { addressSpaceBytes } from '../erofs/v5/address.js'
import { BlobMetaSource } from './blob-meta-source.js'
import type { LayoutSource } from './layout.js'
import { V5Layout } from './v5-layout.js'
import { V5Records } from './v5-records.js'

export interface DescribedBlob {
  /** 64 hex digits. */
  readonly blobId: string
  /** Of the cache file: the addresses that `InodeReader.extents` tells lie in it. A multiple of 4096. */
  readonly sizeBytes: number
  readonly chunkCount: number
  /** Where the chunks are; to be asked for once for each image that is open. */
  readonly layoutSource: (use: LayoutUse) => LayoutSource
}

export interface LayoutUse {
  /** The cache directory. */
  readonly directory: string
  readonly reader: BlobReader
  readonly validate: boolean
  readonly logger?: Logger
}

/**
 * In the order of the image's blob table. `source` must stay open as long as a layout source is used.
 * @throws RAFS_NOT_RAFS, RAFS_UNSUPPORTED for what cannot be served too, RAFS_FIELD, RAFS_TRUNCATED
 */
export function describeBlobs(source: ByteSource): DescribedBlob[] {
  return detectFormat(source) === 'rafs-v5' ? describeV5(source) : describeV6(source)
}

function describeV6(source: ByteSource): DescribedBlob[] {
  const bootstrap = Bootstrap.open(source)
  return bootstrap.blobs.map(blob => {
    const { blobId, uncompressedSize, chunkCount, index } = blob
    // Told now, not by every read.
    requireServable(blob)
    return {
      blobId,
      sizeBytes: uncompressedSize,
      chunkCount,
      layoutSource: use =>
        new BlobMetaSource({ ...use, blobId, blob, checks: bootstrap.chunkDigests(index) }),
    }
  })
}

/** Nothing is loaded without need: the records of all files have to be read. */
function describeV5(source: ByteSource): DescribedBlob[] {
  const records = new V5Records(source)
  return records.blobs.map((blob, index) => {
    const { id: blobId, chunkCount, compressor, digester, features, ciCompressor } = blob
    requireServable({ blobId, features, compressor, ciCompressor })
    const sizeBytes = addressSpaceBytes(blob)
    const layout = async (validate: boolean): Promise<V5Layout> => {
      const options = { blobId, chunkCount, sizeBytes, compressor, digester, validate }
      return new V5Layout(options, await records.take(index))
    }
    return {
      blobId,
      sizeBytes,
      chunkCount,
      layoutSource: ({ validate }) => ({ load: () => layout(validate) }),
    }
  })
}
