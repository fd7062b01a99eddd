import path from 'node:path'
import type { Command } from 'commander'
import type { Backend } from '../../backend/reader.js'
import { createBackend } from '../../backend/create.js'
import { LocalFsBackend } from '../../backend/localfs.js'
import { type ByteSource, FileSource, MemorySource } from '../../common/byte-source.js'
import { isBlobId } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { silentLogger } from '../../common/log.js'
import type { LoadOptions } from '../../erofs/blob-pool.js'
import { PLACEHOLDER_BLOB_ID } from '../../erofs/format.js'
import type { ImageBlob, RafsImage } from '../../erofs/image-tree.js'
import { loadImage } from '../../erofs/load-image.js'
import { detectFormat } from '../../erofs/superblock.js'
import { extractBootstrap } from '../../erofs/toc.js'
import { type BackendConfigFlags, readBackendConfig } from '../backend-config.js'

/** Where the bootstrap is: as the operand, or as older releases had it. */
export interface BootstrapFlags {
  readonly bootstrap?: string
}

/** Where the data is. */
export interface BlobFlags extends BackendConfigFlags {
  readonly blob?: string
  readonly blobDir?: string
  readonly backendType?: string
}

export function addBootstrapOptions(command: Command): Command {
  return command
    .argument('[bootstrap]', 'the bootstrap, or a blob with one inside')
    .option('-B, --bootstrap <file>', 'the same, as older releases had it')
}

export function addBlobOptions(command: Command): Command {
  return command
    .option('-b, --blob <file>', 'the data blob of an image that has one')
    .option('-D, --blob-dir <dir>', 'directory of the data blobs, each under its id')
    .option('--backend-type <type>', 'where the data blobs are: registry')
    .option('--backend-config <json>', 'configuration of that backend')
    .option('--backend-config-file <file>', 'the same in a file, which no process list shows')
}

/** @throws USAGE unless exactly one of the two is there */
export function bootstrapPath(command: string, operand: string | undefined, flags: BootstrapFlags): string {
  const given = operand ?? flags.bootstrap
  if (given === undefined || (operand !== undefined && flags.bootstrap !== undefined))
    throw fault('USAGE', `nydus-image ${command} takes one bootstrap: nydus-image ${command} BOOTSTRAP`)
  return given
}

/** A bootstrap in a file of its own, or inside a blob. */
export class OpenBootstrap {
  readonly path: string
  readonly source: ByteSource
  readonly #file: FileSource

  private constructor(path: string, file: FileSource, source: ByteSource) {
    this.path = path
    this.#file = file
    this.source = source
  }

  /** @throws FILE_MISSING, FILE_UNREADABLE, BLOB_TOC_INVALID */
  static open(path: string): OpenBootstrap {
    const file = new FileSource(path)
    try {
      const inlined = detectFormat(file) === 'unknown' ? extractBootstrap(file) : undefined
      return new OpenBootstrap(path, file, inlined === undefined ? file : new MemorySource(inlined))
    } catch (err) {
      file.close()
      throw err
    }
  }

  /** What blobs are named that do not know their own id: the file's name up to its first dot. */
  get stem(): string {
    return path.basename(this.path).split('.')[0] ?? ''
  }

  /** Gives a blob that does not know its own id the one that the file is named after. */
  readonly identify = (blob: ImageBlob): void => {
    if (blob.id === PLACEHOLDER_BLOB_ID && isBlobId(this.stem)) blob.id = this.stem
  }

  /** The image with its blobs identified. @throws RAFS_* */
  load(options: Omit<LoadOptions, 'identify'> = {}): RafsImage {
    return loadImage(this.source, { ...options, identify: this.identify })
  }

  close(): void {
    this.#file.close()
  }
}

/**
 * The backend that the options name; undefined when they name none.
 * @param blobCount - of the image: one file is not enough for more than one blob
 * @throws USAGE, CONFIG_INVALID
 */
export function openBlobs(command: string, flags: BlobFlags, blobCount: number): Backend | undefined {
  const given = [flags.blob, flags.blobDir, flags.backendType].filter(place => place !== undefined)
  if (given.length > 1)
    throw fault('USAGE', `nydus-image ${command} takes one of --blob, --blob-dir and --backend-type`)
  if (flags.blob !== undefined) {
    if (blobCount > 1)
      throw fault('USAGE', `the image has ${blobCount} blobs: name their directory with --blob-dir`)
    return oneFile(flags.blob)
  }
  if (flags.blobDir !== undefined) return new LocalFsBackend({ dir: flags.blobDir })
  return flags.backendType === undefined ? undefined : openBackend(flags.backendType, flags)
}

/** A file that is the image's blob, whatever the image calls that: inside a blob it has no id yet. */
function oneFile(file: string): Backend {
  const files = new LocalFsBackend({ blob_file: file })
  return { type: files.type, open: () => files.open('0'.repeat(64)), close: () => files.close() }
}

/** @throws USAGE, CONFIG_*, CREDENTIALS_INVALID, UNIMPLEMENTED */
export function openBackend(type: string, flags: BackendConfigFlags): Backend {
  if (type === 'localfs')
    throw fault('USAGE', '--backend-type localfs is --blob-dir: name the directory with that')
  return createBackend(type, readBackendConfig(type, flags), { logger: silentLogger })
}
