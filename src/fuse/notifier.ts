import { write } from 'node:fs'
import { promisify } from 'node:util'
import { hasErrno } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { NOTIFY, REPLY_HEADER } from './protocol.js'

const writeAsync = promisify(write)

/**
 * Tells the kernel what has changed. The kernel may wait for an answer of ours before it returns, to a look-up in the same
 * directory or to a read of a page that it drops: so a thread of the pool does it, which answers nothing, and never two
 * at once.
 */
export class Notifier {
  readonly #fd: number
  readonly #logger: Logger
  #last: Promise<unknown> = Promise.resolve()

  constructor(fd: number, logger: Logger) {
    this.#fd = fd
    this.#logger = logger
  }

  /** Whatever is remembered of a name in a directory, that it is absent included. */
  invalidateEntry(parent: number, name: Uint8Array): Promise<void> {
    const body = Buffer.alloc(16 + name.length + 1)
    writeU64(body, 0, parent)
    new Uint32Array(body.buffer, body.byteOffset, 4)[2] = name.length
    body.set(name, 16)
    return this.#send(NOTIFY.INVAL_ENTRY, body)
  }

  /** Attributes of an inode, and of a directory the list of its names. */
  invalidateInode(node: number): Promise<void> {
    const body = Buffer.alloc(24)
    writeU64(body, 0, node)
    return this.#send(NOTIFY.INVAL_INODE, body)
  }

  /** Asks for what a predecessor has read and not answered. @returns false when the kernel cannot */
  async resend(): Promise<boolean> {
    try {
      await this.#write(message(NOTIFY.RESEND, Buffer.alloc(0)))
      return true
    } catch (err) {
      if (hasErrno(err, 'EINVAL') || hasErrno(err, 'ENOSYS')) return false
      throw err
    }
  }

  async #send(code: number, body: Buffer): Promise<void> {
    try {
      await this.#write(message(code, body))
    } catch (err) {
      // ENOENT: the kernel remembers nothing of it. ENODEV, ENOTCONN: it is not mounted any more.
      if (['ENOENT', 'ENOTDIR', 'ENODEV', 'ENOTCONN', 'ECONNABORTED'].some(name => hasErrno(err, name)))
        return
      this.#logger.warn({ err, code }, 'the kernel was not told of a change: names may be stale')
    }
  }

  #write(bytes: Buffer): Promise<unknown> {
    const written = this.#last.then(() => writeAsync(this.#fd, bytes))
    this.#last = written.catch(() => undefined)
    return written
  }
}

function message(code: number, body: Buffer): Buffer {
  const bytes = Buffer.alloc(REPLY_HEADER + body.length)
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, REPLY_HEADER / 4)
  words[0] = bytes.length
  words[1] = code
  bytes.set(body, REPLY_HEADER)
  return bytes
}

function writeU64(bytes: Buffer, at: number, value: number): void {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + at, 2)
  words[0] = value % 2 ** 32
  words[1] = value / 2 ** 32
}
