import { FileSource } from '../common/byte-source.js'
import type { InodeReader } from '../erofs/inode-reader.js'
import { openInodeReader } from '../erofs/open-inode-reader.js'

/** The readers of the images that a thread was asked for: small, for their blocks lie in memory that they share. */
export class ReaderPool {
  readonly #readers = new Map<number, InodeReader>()
  #last: { readonly sequence: number; readonly reader: InodeReader } | undefined

  /** @throws RAFS_* */
  get(image: { readonly sequence: number; readonly bootstrapFd: number }): InodeReader {
    if (this.#last?.sequence === image.sequence) return this.#last.reader
    const { sequence, bootstrapFd } = image
    const reader = this.#readers.get(sequence) ?? openInodeReader(new FileSource(bootstrapFd))
    this.#readers.set(sequence, reader)
    this.#last = { sequence, reader }
    return reader
  }

  drop(sequence: number): void {
    this.#readers.delete(sequence)
    if (this.#last?.sequence === sequence) this.#last = undefined
  }
}
