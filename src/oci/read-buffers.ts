/**
 * The memory that sockets read into, used over and over. Left alone, Node takes a fresh 64 KiB for each read, and V8
 * marks its whole heap for every 64 MiB of that: beside a fast registry that took longer than the reading itself.
 *
 * A buffer may be used again once all that was read into it was handed out as body, and copied by whoever took it. A
 * buffer that ends in anything else is left to V8: undici keeps slices of headers until they are complete.
 */
import type { OnReadOpts, Socket } from 'node:net'

/** As much as a fast sender has ready; a read costs the same for few bytes and for many. */
const READ_BYTES = 256 * 1024
/** Kept for the next reads; more than these are in use only while that many sockets receive at once. */
const MAX_FREE = 16

export class ReadBuffers {
  readonly #free: Buffer<ArrayBuffer>[] = []
  /** How many bytes the last read brought into a buffer. */
  readonly #filled = new WeakMap<ArrayBufferLike, number>()

  /** What net.connect and tls.connect take as `onread`: reads go into our buffers and from there the usual way. */
  get onread(): OnReadOpts {
    const filled = this.#filled
    return {
      buffer: () => this.#free.pop() ?? Buffer.allocUnsafeSlow(READ_BYTES),
      callback(this: Socket, length: number, buffer: Uint8Array) {
        filled.set(buffer.buffer, length)
        return this.push(buffer.subarray(0, length))
      },
    }
  }

  /** Told of each piece of a body when nobody needs it any more. */
  giveBack(piece: Uint8Array): void {
    const { buffer } = piece
    if (piece.byteOffset + piece.length !== this.#filled.get(buffer)) return
    this.#filled.delete(buffer)
    if (this.#free.length < MAX_FREE) this.#free.push(Buffer.from(buffer as ArrayBuffer))
  }
}
