import type { BlobReader } from '../../src/backend/reader.js'
import { fault } from '../../src/common/fault.js'

/** Blobs in memory, by id, as a backend would give them. */
export class MemoryBlobs {
  /** Every range that was read. */
  readonly reads: { offset: number; length: number }[] = []
  readonly #blobs: ReadonlyMap<string, Uint8Array>

  constructor(blobs: ReadonlyMap<string, Uint8Array>) {
    this.#blobs = blobs
  }

  open(blobId: string): BlobReader {
    const bytes = this.#blobs.get(blobId)
    if (bytes === undefined) throw fault('FILE_MISSING', `there is no blob ${blobId}`)
    return {
      blobId,
      size: () => Promise.resolve(bytes.length),
      read: (offset, length) => {
        this.reads.push({ offset, length })
        if (offset + length > bytes.length)
          return Promise.reject(fault('RAFS_TRUNCATED', `the blob ends before ${offset + length}`))
        return Promise.resolve(bytes.subarray(offset, offset + length))
      },
    }
  }
}
