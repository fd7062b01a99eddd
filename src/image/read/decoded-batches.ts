const MAX_BYTES = 16 * 1024 * 1024

/**
 * The decoded batches that were used last, 16 MiB of them or one that is larger: files that lie next to each other in a
 * tree are stored near each other, but seldom in the same order.
 */
export class DecodedBatches {
  readonly #byPlace = new Map<string, Uint8Array>()
  #sizeBytes = 0

  /** The bytes of the batch at this place in its blob, decoded by `decode` where they are not here. */
  async ensure(blobId: string, storedOffset: number, decode: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const place = `${blobId}@${storedOffset}`
    const known = this.#byPlace.get(place)
    const bytes = known ?? (await decode())
    if (known === undefined) this.#sizeBytes += bytes.length
    this.#byPlace.delete(place)
    this.#byPlace.set(place, bytes)
    for (const [oldest, { length }] of this.#byPlace) {
      if (this.#sizeBytes <= MAX_BYTES || oldest === place) break
      this.#byPlace.delete(oldest)
      this.#sizeBytes -= length
    }
    return bytes
  }
}
