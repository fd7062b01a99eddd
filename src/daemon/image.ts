/**
 * What every way of serving an image needs of it: its bootstrap, its backend, and its blobs open in a chunk cache.
 * Opening asks no network.
 */
import { closeSync, copyFileSync, existsSync, renameSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { countReads, ReadStatistics } from '../backend/read-statistics.js'
import type { Backend, BlobReader } from '../backend/reader.js'
import type { CachedBlob } from '../cache/cached-blob.js'
import type { ChunkCache } from '../cache/chunk-cache.js'
import { describeBlobs, type DescribedBlob } from '../cache/image-blobs.js'
import { FileSource, openToRead } from '../common/byte-source.js'
import type { Logger } from '../common/log.js'
import type { InodeReader } from '../erofs/inode-reader.js'
import { openInodeReader } from '../erofs/open-inode-reader.js'

export interface ImageOptions {
  readonly bootstrapPath: string
  /** The image's from here on: closed with it, and when opening fails. */
  readonly backend: Backend
  readonly cache: ChunkCache
  readonly validate: boolean
  readonly logger: Logger
  /** Where reads of the backend are counted; nobody asks for a number without it. */
  readonly statistics?: ReadStatistics
  /** Fill descriptors of a predecessor, by name; those that are used are taken out. */
  readonly kept?: Map<string, number>
}

interface OpenBlob {
  readonly blob: CachedBlob
  readonly reader: BlobReader
}

export class Image {
  readonly bootstrapPath: string
  /** Of the file that the path named when the image was opened. */
  readonly bootstrapFd: number
  readonly source: FileSource
  readonly backend: Backend
  /** In the order of the image's blob table. */
  readonly blobs: readonly CachedBlob[]
  readonly #cache: ChunkCache
  readonly #open: readonly OpenBlob[]

  private constructor(
    options: ImageOptions,
    bootstrapFd: number,
    source: FileSource,
    open: readonly OpenBlob[],
  ) {
    this.bootstrapPath = options.bootstrapPath
    this.bootstrapFd = bootstrapFd
    this.backend = options.backend
    this.source = source
    this.#cache = options.cache
    this.#open = open
    this.blobs = open.map(({ blob }) => blob)
  }

  /** @throws FILE_MISSING, FILE_UNREADABLE, RAFS_*, CONFIG_INVALID, CACHE_* */
  static async open(options: ImageOptions): Promise<Image> {
    const { backend, bootstrapPath, cache } = options
    const open: OpenBlob[] = []
    let bootstrapFd: number | undefined
    try {
      bootstrapFd = openToRead(bootstrapPath)
      const source = new FileSource(bootstrapFd)
      for (const described of describeBlobs(source)) open.push(await openBlob(described, options))
      return new Image(options, bootstrapFd, source, open)
    } catch (err) {
      for (const { blob, reader } of open) await cache.closeBlob(blob, reader)
      if (bootstrapFd !== undefined) closeSync(bootstrapFd)
      await backend.close()
      throw err
    }
  }

  /** The tree, by inode numbers. @throws RAFS_* */
  openReader(): InodeReader {
    return openInodeReader(this.source)
  }

  async close(): Promise<void> {
    for (const { blob, reader } of this.#open) await this.#cache.closeBlob(blob, reader)
    closeSync(this.bootstrapFd)
    await this.backend.close()
  }
}

async function openBlob(described: DescribedBlob, options: ImageOptions): Promise<OpenBlob> {
  const { backend, bootstrapPath, cache, kept, logger, statistics = new ReadStatistics(), validate } = options
  const { blobId, sizeBytes, chunkCount } = described
  const reader = countReads(backend.open(blobId), statistics)
  adoptShippedMeta(bootstrapPath, cache.directory, blobId)
  const name = `fill.${blobId}`
  const fillFd = kept?.get(name)
  kept?.delete(name)
  const blob = await cache.openBlob({
    blobId,
    sizeBytes,
    chunkCount,
    layoutSource: described.layoutSource({ directory: cache.directory, reader, validate, logger }),
    reader,
    validate,
    ...(fillFd === undefined ? {} : { fillFd }),
  })
  return { blob, reader }
}

/**
 * Converters ship the blobs' metadata beside the bootstrap: with it the first read asks the backend for data only.
 * Whether it is sound is seen when it is parsed.
 */
function adoptShippedMeta(bootstrapPath: string, cacheDirectory: string, blobId: string): void {
  const shipped = join(dirname(bootstrapPath), `${blobId}.blob.meta`)
  const target = join(cacheDirectory, `${blobId}.blob.meta`)
  if (existsSync(target) || !existsSync(shipped)) return
  copyFileSync(shipped, `${target}.shipped`)
  renameSync(`${target}.shipped`, target)
}
