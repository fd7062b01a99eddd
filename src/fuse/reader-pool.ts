import { FileSource } from '../common/byte-source.js'
import type { InodeReader } from '../erofs/inode-reader.js'
import { openInodeReader } from '../erofs/open-inode-reader.js'

/** Each holds up to 4 MiB of its bootstrap. */
const MAX_READERS = 32

/** The readers of the images that a thread was asked for last; others are opened again when they are needed. */
export class ReaderPool {
  readonly #readers = new Map<number, InodeReader>()
  #last: { readonly sequence: number; readonly reader: InodeReader } | undefined

  /** @throws RAFS_* */
  get(image: { readonly sequence: number; readonly bootstrapFd: number }): InodeReader {
    if (this.#last?.sequence === image.sequence) return this.#last.reader
    const { sequence } = image
    const reader = this.#readers.get(sequence) ?? openInodeReader(new FileSource(image.bootstrapFd))
    this.#readers.delete(sequence)
    if (this.#readers.size >= MAX_READERS) {
      const oldest = this.#readers.keys().next()
      if (!oldest.done) this.#readers.delete(oldest.value)
    }
    this.#readers.set(sequence, reader)
    this.#last = { sequence, reader }
    return reader
  }

  drop(sequence: number): void {
    this.#readers.delete(sequence)
    if (this.#last?.sequence === sequence) this.#last = undefined
  }
}
