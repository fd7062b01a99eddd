/**
 * The seam between formats and everything above them: which stored bytes, decoded how, give which uncompressed range.
 * The cache, the planner and the drivers know a blob only through this.
 */

/** One run of stored bytes that is fetched whole and decoded whole: a chunk, or a batch of small chunks. */
export interface Extent {
  /** Where the stored bytes are, in the stored blob. */
  readonly storedOffset: number
  readonly storedLength: number
  /** Chunk indexes that it yields, consecutive. */
  readonly firstChunk: number
  readonly chunkCount: number
}

/** A chunk's place in the blob's uncompressed address space (the address space of the EROFS device). */
export interface ChunkRange {
  readonly offset: number
  readonly length: number
}

export interface DecodedChunk {
  readonly chunk: number
  readonly offset: number
  readonly bytes: Uint8Array
}

export interface BlobLayout {
  readonly chunkCount: number
  /** Size of the uncompressed address space in bytes, a multiple of 4096. */
  readonly uncompressedSize: number
  /**
   * The chunk's uncompressed range. Ranges ascend, start at multiples of 4096 and do not overlap. One of length 0 is not
   * known, and not verifiable: the chunk is somewhere between that offset and the next known one.
   */
  chunkRange(chunk: number): ChunkRange
  /** Chunk indexes [first, end) whose ranges meet [offset, offset + length); empty when only padding is touched. */
  chunksIn(offset: number, length: number): { first: number; end: number }
  /** The extent that yields this chunk. Chunks of one batch give equal extents. */
  extentOf(chunk: number): Extent
  /**
   * False for a chunk that nothing can check: a merged bootstrap records digests only of the chunks that its own files
   * use. No file of this image reaches such a chunk, so it is never fetched for its own sake nor marked ready (another
   * image may use it and know its digest), and the blob counts as complete without it. All true with checking off.
   */
  verifiable(chunk: number): boolean
  /**
   * Decodes the stored bytes of an extent (decrypt, decompress, slice) and checks the length of each chunk.
   * @throws CHUNK_DECODE
   */
  decode(extent: Extent, stored: Uint8Array): Promise<DecodedChunk[]>
  /**
   * Checks one decoded chunk against its digest (or its CRC-32C where the format carries that instead).
   * Throws CHUNK_DIGEST_MISMATCH with both digests in the context, also for a chunk that is not verifiable.
   */
  verify(decoded: DecodedChunk): void
  /**
   * Takes over what the layout of another image knows of the same blob; this one then stands for both. Formats whose
   * blobs tell of all their chunks go without it. @throws BLOB_META_INVALID where the two contradict each other
   */
  adopt?(other: BlobLayout): void
}

/** What loads a layout: local metadata where there is some, else a read of the stored blob. */
export interface LayoutSource {
  /** @throws BLOB_META_INVALID, and the backend's faults where the metadata must be fetched */
  load(): Promise<BlobLayout>
  /** The layout where nothing needs the network, else undefined. A source without it has no local metadata. */
  loadLocal?(): Promise<BlobLayout | undefined>
}
