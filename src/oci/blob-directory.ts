/** Blobs as files of a directory, each under its id: what upstream calls the localfs backend, and a part of OCI layouts. */
import { createHash, randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { digestHex } from '../common/digest.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import type { BlobContent, BlobId, BlobTarget, PutBlobOptions, StoreOptions } from './image-store.js'

export class BlobDirectory implements BlobTarget {
  /** The path of the directory. */
  readonly name: string

  constructor(directory: string) {
    this.name = directory
  }

  /** Makes the directory where it is missing. @throws FILE_UNREADABLE */
  static async open(directory: string): Promise<BlobDirectory> {
    try {
      await mkdir(directory, { recursive: true })
    } catch (err) {
      throw asFault(err, 'FILE_UNREADABLE', `the directory ${directory} cannot be made`)
    }
    return new BlobDirectory(directory)
  }

  async hasBlob({ digest, size }: BlobId): Promise<boolean> {
    return (await this.blobSize(digest)) === size
  }

  async blobSize(digest: string): Promise<number | undefined> {
    try {
      return (await stat(this.#file(digest))).size
    } catch (err) {
      if (hasErrno(err, 'ENOENT')) return undefined
      throw asFault(err, 'FILE_UNREADABLE', `${this.name} cannot be read`)
    }
  }

  async putBlob(blob: BlobId, content: BlobContent, options: PutBlobOptions = {}): Promise<void> {
    const stream = Readable.from(checked(blob, content, options))
    await writeBeside(this.#file(blob.digest), file =>
      pipeline(stream, createWriteStream(file, { flags: 'wx', flush: true })),
    )
  }

  takeBlob(): Promise<boolean> {
    return Promise.resolve(false)
  }

  #file(digest: string): string {
    return path.join(this.name, digestHex(digest))
  }
}

/** Passes content on, and ends with an error unless it is the blob it claims to be. */
export async function* checked(
  { digest, size }: BlobId,
  content: BlobContent,
  { signal }: StoreOptions,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256')
  let length = 0
  for await (const piece of content(0)) {
    signal?.throwIfAborted()
    hash.update(piece)
    length += piece.length
    yield piece
  }
  const found = `sha256:${hash.digest('hex')}`
  if (found === digest && length === size) return
  throw fault('DIGEST_MISMATCH', `a blob to store has digest ${found} instead of ${digest}`)
}

/** Lets a file be written beside its path and renamed when it is whole. @throws FILE_UNREADABLE */
export async function writeBeside(file: string, write: (beside: string) => Promise<void>): Promise<void> {
  const beside = besidePath(file)
  try {
    await write(beside)
    await rename(beside, file)
  } catch (err) {
    await rm(beside, { force: true })
    throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be written`)
  }
}

export function besidePath(file: string): string {
  return path.join(path.dirname(file), `.${path.basename(file)}.${randomUUID().slice(0, 8)}.partial`)
}
