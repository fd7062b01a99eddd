import { randomUUID } from 'node:crypto'
import { open, readFile, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import type { BlobReader } from '../backend/reader.js'
import { asFault, fault, hasErrno, isFault } from '../common/fault.js'
import { type Logger, silentLogger } from '../common/log.js'
import { type BlobMeta, parseMetaFile, storedMetaRange, unpackStoredMeta } from '../erofs/blob-meta.js'
import type { BlobEntry } from '../erofs/blob-table.js'
import type { ChunkChecks } from '../erofs/chunk-table.js'
import type { LayoutSource } from './layout.js'
import { RafsLayout } from './rafs-layout.js'

export interface BlobMetaSourceOptions {
  /** The cache directory: the metadata is kept there as `<id>.blob.meta`, upstream's name and format. */
  directory: string
  /** The id under which the cache knows the blob, where the bootstrap has a placeholder for it. */
  blobId: string
  blob: BlobEntry
  /** Digests from the bootstrap's chunk table; undefined when it has none. */
  checks: ChunkChecks | undefined
  reader: BlobReader
  validate: boolean
  logger?: Logger
}

/** The layout of a native RAFS blob: from the local copy of its metadata, else from the stored blob, then kept. */
export class BlobMetaSource implements LayoutSource {
  readonly #options: BlobMetaSourceOptions
  readonly #path: string
  readonly #logger: Logger
  /** The local copy was refused, and that was said: it is not looked at again. */
  #damaged = false

  constructor(options: BlobMetaSourceOptions) {
    this.#options = options
    this.#path = path.join(options.directory, `${options.blobId}.blob.meta`)
    this.#logger = options.logger ?? silentLogger
  }

  /** @throws RAFS_UNSUPPORTED, CACHE_IO */
  async loadLocal(): Promise<RafsLayout | undefined> {
    if (this.#damaged) return undefined
    let file: Uint8Array
    try {
      file = await readFile(this.#path)
    } catch (err) {
      if (hasErrno(err, 'ENOENT')) return undefined
      throw asFault(err, 'CACHE_IO', `cannot read ${this.#path}`)
    }
    try {
      return this.#layout(parseMetaFile(this.#options.blob, file))
    } catch (err) {
      if (!isFault(err, 'BLOB_META_INVALID')) throw err
      this.#damaged = true
      this.#logger.warn(
        { err, path: this.#path },
        'the local copy of blob metadata is damaged: it is fetched again',
      )
      return undefined
    }
  }

  async load(): Promise<RafsLayout> {
    const local = await this.loadLocal()
    if (local) return local
    const { blob, reader } = this.#options
    const { offset, length } = storedMetaRange(blob)
    const file = unpackStoredMeta(blob, await reader.read(offset, length, { kind: 'demand' }))
    const layout = this.#layout(parseMetaFile(blob, file))
    await this.#keep(file)
    return layout
  }

  #layout(meta: BlobMeta): RafsLayout {
    const { blob, checks, validate } = this.#options
    return new RafsLayout(blob, meta, checks, { validate })
  }

  /** Keeps the metadata for the next start. Without it everything works, but for that start the network is needed. */
  async #keep(file: Uint8Array): Promise<void> {
    // Two images may bring the same blob's metadata at once.
    const temporary = `${this.#path}.${randomUUID()}.new`
    try {
      const handle = await open(temporary, 'w', 0o600)
      try {
        await handle.writeFile(file)
        await handle.sync()
      } finally {
        await handle.close()
      }
      await rename(temporary, this.#path)
    } catch (err) {
      await rm(temporary, { force: true })
      const failure = fault('CACHE_IO', `cannot keep ${this.#path}: a restart will need the network`, {
        cause: err,
      })
      this.#logger.warn({ err: failure }, failure.message)
    }
  }
}
