import { UnitCipher } from '../../common/codec.js'
import type { BlobEntry } from '../../erofs/blob-table.js'
import type { ImageBlob } from '../../erofs/image-tree.js'

/** The blob as its table entry would describe it. */
export function blobEntryOf(blob: ImageBlob): BlobEntry {
  const { id, toc, cipher } = blob
  return {
    index: 0,
    blobId: id,
    chunkSize: blob.chunkSize,
    chunkCount: blob.chunkCount,
    compressor: blob.compressor,
    digester: blob.digester,
    features: blob.features,
    compressedSize: blob.compressedSize,
    uncompressedSize: blob.uncompressedSize,
    tocSize: toc?.sizeBytes ?? 0,
    tocDigest: toc?.digest ?? new Uint8Array(32),
    ciCompressor: blob.ciCompressor,
    ciOffset: blob.ciOffset,
    ciCompressedSize: blob.ciCompressedSize,
    ciUncompressedSize: blob.ciUncompressedSize,
    metaDigest: undefined,
    metaSize: 0,
    cipher: cipher && new UnitCipher(cipher.key, cipher.iv),
  }
}
