/** Blobs in local directories (nydusd.md 4.6). */
import { open, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { isBlobId } from '../common/digest.js'
import { asFault, type Fault, fault, hasErrno } from '../common/fault.js'
import { observeRead } from './read-events.js'
import type { Backend, BlobReader, ReadOptions } from './reader.js'

/** Upstream's names. */
export interface LocalFsConfig {
  /** Serves every blob id, and wins over `dir`. */
  blob_file?: string
  dir?: string
  /** Searched after `dir`, in order, for a file that is not empty. */
  alt_dirs?: string[]
  /** Had a meaning before version 2; accepted and ignored. */
  readahead?: boolean
  readahead_sec?: number
}

interface OpenBlob {
  readonly file: FileHandle
  readonly sizeBytes: number
}

export class LocalFsBackend implements Backend {
  readonly type = 'localfs'
  readonly #config: LocalFsConfig
  readonly #blobs = new Map<string, Promise<OpenBlob>>()
  #closed = false

  constructor(config: LocalFsConfig) {
    this.#config = config
  }

  open(blobId: string): BlobReader {
    // A blob id becomes part of a path.
    if (!isBlobId(blobId))
      throw fault(
        'CONFIG_INVALID',
        `${JSON.stringify(blobId.slice(0, 80))} is no blob id: it has 64 hex digits`,
      )
    return new LocalBlob(blobId, () => this.#file(blobId))
  }

  async close(): Promise<void> {
    this.#closed = true
    const blobs = [...this.#blobs.values()]
    this.#blobs.clear()
    for (const opened of await Promise.allSettled(blobs))
      if (opened.status === 'fulfilled') await opened.value.file.close()
  }

  #file(blobId: string): Promise<OpenBlob> {
    if (this.#closed) return Promise.reject(fault('CANCELLED', 'the localfs backend was closed'))
    let pending = this.#blobs.get(blobId)
    if (!pending) {
      pending = this.#find(blobId)
      this.#blobs.set(blobId, pending)
      // Not remembered: the file may come later.
      pending.catch(() => this.#blobs.delete(blobId))
    }
    return pending
  }

  async #find(blobId: string): Promise<OpenBlob> {
    const candidates = this.#candidates(blobId)
    let failure: Fault | undefined
    for (const candidate of candidates) {
      try {
        const file = await open(candidate, 'r')
        const { size } = await file.stat()
        if (size > 0 || candidate === candidates.at(-1)) return { file, sizeBytes: size }
        await file.close()
      } catch (err) {
        if (!hasErrno(err, 'ENOENT')) failure ??= asFault(err, 'FILE_UNREADABLE', `cannot open ${candidate}`)
      }
    }
    throw (
      failure ??
      fault(
        'FILE_MISSING',
        `blob ${blobId} is in none of ${candidates.join(', ')}: copy it there, or mend "dir"`,
      )
    )
  }

  #candidates(blobId: string): string[] {
    const { blob_file: blobFile, dir, alt_dirs: altDirs } = this.#config
    if (blobFile !== undefined && blobFile !== '') return [blobFile]
    return [dir ?? '', ...(altDirs ?? [])].filter(d => d !== '').map(d => path.join(d, blobId))
  }
}

class LocalBlob implements BlobReader {
  readonly blobId: string
  readonly #file: () => Promise<OpenBlob>

  constructor(blobId: string, file: () => Promise<OpenBlob>) {
    this.blobId = blobId
    this.#file = file
  }

  async size(_options: ReadOptions): Promise<number> {
    return (await this.#file()).sizeBytes
  }

  read(offset: number, length: number, options: ReadOptions): Promise<Uint8Array> {
    return observeRead({ backend: 'localfs', blobId: this.blobId, kind: options.kind, offset, length }, () =>
      this.#read(offset, length, options),
    )
  }

  async #read(offset: number, length: number, options: ReadOptions): Promise<Uint8Array> {
    const { file } = await this.#file()
    const out = options.into ?? new Uint8Array(length)
    for (let done = 0; done < length;) {
      if (options.signal?.aborted === true)
        throw fault('CANCELLED', `the read of blob ${this.blobId} was cancelled`, {
          cause: options.signal.reason,
        })
      const { bytesRead } = await file.read(out, done, length - done, offset + done)
      if (bytesRead === 0) {
        throw fault(
          'RAFS_TRUNCATED',
          `blob ${this.blobId} ends at ${offset + done}, before ${offset + length}`,
          {
            context: { blobId: this.blobId, offset, length },
          },
        )
      }
      done += bytesRead
    }
    return out
  }
}
