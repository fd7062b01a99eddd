import { type Hash, createHash } from 'node:crypto'
import type { BlobOutput } from './blob-output.js'

/** A blob while it is written: knows where it is, and hashes what goes by. */
export class BlobStream {
  /** sha256 of what has been written, but for what was written apart from it. */
  readonly hash: Hash = createHash('sha256')
  readonly #output: BlobOutput
  readonly #start: number
  #position: number

  /** @param start where the blob will stand in what readers take it from: 0 unless it becomes part of something bigger */
  constructor(output: BlobOutput, start: number) {
    this.#output = output
    this.#start = start
    this.#position = start
  }

  /** Where the next byte goes, as readers see it. */
  get position(): number {
    return this.#position
  }

  get sizeBytes(): number {
    return this.#position - this.#start
  }

  async append(bytes: Uint8Array): Promise<void> {
    this.hash.update(bytes)
    await this.appendApart(bytes)
  }

  /** Leaves the hash as it is. */
  async appendApart(bytes: Uint8Array): Promise<void> {
    await this.#output.write(bytes)
    this.#position += bytes.length
  }
}
