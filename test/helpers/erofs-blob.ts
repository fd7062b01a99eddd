import { execFileSync, spawnSync } from 'node:child_process'
import {
  closeSync,
  ftruncateSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import type { CachedBlob, ReadyBlocks } from '../../src/cache/cached-blob.js'
import { createReadyBlocks, markRangeReady, rangeReady } from '../../src/cache/ready-blocks.js'

/** True when erofs-utils are here. */
export function haveMkfsErofs(): boolean {
  return spawnSync('mkfs.erofs', ['--help']).error === undefined
}

/**
 * An EROFS image of these files whose data lies on one external device, made by mkfs.erofs.
 * @returns paths of the metadata and of the device
 */
export function makeErofsImage(
  directory: string,
  files: Record<string, Buffer>,
): { meta: string; device: string } {
  const tree = join(directory, 'tree')
  mkdirSync(tree)
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(tree, name), bytes)
  const meta = join(directory, 'meta.erofs')
  const device = join(directory, 'device.img')
  execFileSync('mkfs.erofs', ['--quiet', '--chunksize=65536', `--blobdev=${device}`, meta, tree])
  return { meta, device }
}

/** A cached blob whose stored bytes are a file beside it, in chunks of 64 KiB; what `ensure` does can be steered. */
export class FileBlob implements CachedBlob {
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
  readonly #origin: number
  readonly #onDurable: (() => void)[] = []

  constructor(blobId: string, path: string, originPath: string, fillFd?: number) {
    this.blobId = blobId
    this.path = path
    this.#origin = openSync(originPath, 'r')
    this.sizeBytes = Math.ceil(statSync(originPath).size / 4096) * 4096
    this.fillFd = fillFd ?? openSync(path, 'w+')
    if (fillFd === undefined) ftruncateSync(this.fillFd, this.sizeBytes)
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
    const start = Math.floor(offset / 65536) * 65536
    const end = Math.min(this.sizeBytes, Math.ceil((offset + length) / 65536) * 65536)
    const bytes = Buffer.alloc(end - start)
    readSync(this.#origin, bytes, 0, bytes.length, start)
    writeSync(this.fillFd, bytes, 0, bytes.length, start)
    markRangeReady(this.readyBlocks, start, end - start)
    if (this.complete) for (const callback of this.#onDurable.splice(0)) callback()
  }

  onDurable(callback: () => void): void {
    if (this.complete) callback()
    else this.#onDurable.push(callback)
  }

  close(): void {
    closeSync(this.#origin)
    closeSync(this.fillFd)
  }
}
