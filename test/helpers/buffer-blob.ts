import { closeSync, ftruncateSync, fstatSync, openSync, writeSync } from 'node:fs'
import type { CachedBlob, ReadyBlocks } from '../../src/cache/cached-blob.js'
import { createReadyBlocks, markRangeReady, rangeReady } from '../../src/cache/ready-blocks.js'

const CHUNK = 65536

/** A cached blob that is filled from memory, in chunks of 64 KiB; what `ensure` does can be steered. */
export class BufferBlob implements CachedBlob {
  readonly blobId: string
  readonly path: string
  readonly fillFd: number
  readonly dev: number
  readonly ino: number
  readonly sizeBytes: number
  readonly readyBlocks: ReadyBlocks
  ensured: { offset: number; length: number }[] = []
  /** Awaited before a range is filled: throw to fail the read, wait to hold it. */
  gate: () => Promise<void> = () => Promise.resolve()
  readonly #content: Buffer
  readonly #onDurable: (() => void)[] = []

  constructor(blobId: string, path: string, content: Buffer) {
    this.blobId = blobId
    this.path = path
    this.#content = content
    this.sizeBytes = Math.ceil(content.length / 4096) * 4096
    this.fillFd = openSync(path, 'w+')
    ftruncateSync(this.fillFd, this.sizeBytes)
    const { dev, ino } = fstatSync(this.fillFd)
    this.dev = dev
    this.ino = ino
    this.readyBlocks = createReadyBlocks(this.sizeBytes)
  }

  get complete(): boolean {
    return this.isReady(0, this.sizeBytes)
  }

  get durable(): boolean {
    return this.complete
  }

  isReady(offset: number, length: number): boolean {
    return rangeReady(this.readyBlocks, this.sizeBytes, offset, length)
  }

  async ensure(offset: number, length: number): Promise<void> {
    this.ensured.push({ offset, length })
    await this.gate()
    const start = Math.floor(offset / CHUNK) * CHUNK
    const end = Math.min(this.sizeBytes, Math.ceil((offset + length) / CHUNK) * CHUNK)
    const bytes = this.#content.subarray(start, end)
    writeSync(this.fillFd, bytes, 0, bytes.length, start)
    markRangeReady(this.readyBlocks, start, end - start)
    if (this.complete) for (const callback of this.#onDurable.splice(0)) callback()
  }

  onDurable(callback: () => void): void {
    if (this.complete) callback()
    else this.#onDurable.push(callback)
  }

  close(): void {
    closeSync(this.fillFd)
  }
}
