import type { Descriptor } from '../oci/manifest.js'
import type { PullProgress } from './pull.js'

const REDRAW_MS = 100
const ERASE_LINE = '\r\u001b[K'

/**
 * A line for each object that is fetched: what has none was not fetched. On a terminal a last line counts bytes of what
 * is under way.
 */
export class TextProgress implements PullProgress {
  readonly #out: { write(text: string): unknown; isTTY?: boolean }
  readonly #active = new Map<string, { object: Descriptor; received: number }>()
  #drawnAt = 0

  constructor(out: { write(text: string): unknown; isTTY?: boolean }) {
    this.#out = out
  }

  fetching(object: Descriptor): void {
    this.#active.set(object.digest, { object, received: 0 })
    this.line(`fetching ${object.digest.slice(0, 15)}... ${object.mediaType}`)
  }

  received(object: Descriptor, bytes: number): void {
    const entry = this.#active.get(object.digest)
    if (entry) entry.received += bytes
    if (this.#out.isTTY === true && performance.now() - this.#drawnAt >= REDRAW_MS) this.#draw()
  }

  fetched(object: Descriptor): void {
    this.#active.delete(object.digest)
  }

  /** A line of its own. */
  line(text: string): void {
    this.#out.write(`${this.#out.isTTY === true ? ERASE_LINE : ''}${text}\n`)
  }

  #draw(): void {
    this.#drawnAt = performance.now()
    const parts = [...this.#active.values()].map(
      ({ object, received }) =>
        `${object.digest.slice(7, 15)} ${mebibytes(received)}/${mebibytes(object.size)}`,
    )
    this.#out.write(`${ERASE_LINE}${parts.join('  ')} MiB`)
  }
}

function mebibytes(bytes: number): string {
  return (bytes / (1 << 20)).toFixed(1)
}
