/** Blobs as files of a directory, each under its id: what upstream calls the localfs backend, and a part of OCI layouts. */
import { createHash } from 'node:crypto'
import { mkdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { digestHex } from '../common/digest.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import { FileOutput } from '../common/file-output.js'
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
    const file = this.#file(blob.digest)
    const failure = `${file} cannot be written`
    const output = await FileOutput.open(file, failure)
    try {
      for await (const piece of checked(blob, content, options)) await output.write(piece)
      await output.flush()
      await output.finish()
    } catch (err) {
      await output.abort()
      throw asFault(err, 'FILE_UNREADABLE', failure)
    }
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
