import type { ImageBlob } from './image-tree.js'

type Facts = Pick<ImageBlob, 'id' | 'chunkSize' | 'compressor' | 'digester' | 'features' | 'cipher'>

/** A blob of which no more is known yet than how it is written. */
export function emptyBlob(facts: Facts): ImageBlob {
  return {
    ...facts,
    chunkCount: 0,
    compressedSize: 0,
    uncompressedSize: 0,
    ciCompressor: 'none',
    ciOffset: 0,
    ciCompressedSize: 0,
    ciUncompressedSize: 0,
  }
}
