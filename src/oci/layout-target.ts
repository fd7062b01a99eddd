/** An OCI layout as an image target: a directory that may hold other images, or a new tar archive. */
import { randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, readFile, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import tar from 'tar-stream'
import { digestHex, sha256 } from '../common/digest.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import { replaceFile } from '../common/replace-file.js'
import { BlobDirectory, checked } from './blob-directory.js'
import {
  type BlobContent,
  type BlobId,
  type ImageTarget,
  type PutBlobOptions,
  type StoreOptions,
  putBlobOnce,
} from './image-store.js'
import { INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, addLayoutEntry } from './layout-index.js'
import type { Descriptor } from './manifest.js'
import { type Reference, formatReference } from './reference.js'

/**
 * Opens what an image is to be written to: an existing directory, or a path that ends with `/`, is a layout directory;
 * anything else becomes an archive, which replaces a file of that name when it is complete.
 * @throws FILE_UNREADABLE
 */
export async function openLayoutTarget(file: string, reference: Reference): Promise<ImageTarget> {
  const name = `${formatReference(reference)} in ${file}`
  try {
    const known = await stat(file).catch((err: unknown) => {
      if (hasErrno(err, 'ENOENT')) return undefined
      throw err
    })
    const isDirectory = known ? known.isDirectory() : file.endsWith('/')
    if (known && !known.isDirectory() && !known.isFile())
      throw fault('FILE_UNREADABLE', `${file} is neither a directory nor a regular file: name one`)
    await mkdir(isDirectory ? path.join(file, 'blobs/sha256') : path.dirname(file), { recursive: true })
    return isDirectory ? new DirectoryTarget(name, reference, file) : new ArchiveTarget(name, reference, file)
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be written`)
  }
}

abstract class LayoutTarget implements ImageTarget {
  readonly name: string
  readonly reference: Reference

  constructor(name: string, reference: Reference) {
    this.name = name
    this.reference = reference
  }

  abstract blobSize(digest: string): Promise<number | undefined>
  abstract putBlob(blob: BlobId, content: BlobContent, options?: PutBlobOptions): Promise<void>
  protected abstract putName(entry: Descriptor): Promise<void>
  abstract commit(): Promise<void>
  abstract close(): Promise<void>

  async hasBlob({ digest, size }: BlobId): Promise<boolean> {
    return (await this.blobSize(digest)) === size
  }

  takeBlob(): Promise<boolean> {
    return Promise.resolve(false)
  }

  async putManifest(
    mediaType: string,
    bytes: Uint8Array,
    { named, signal }: StoreOptions & { readonly named: boolean },
  ): Promise<Descriptor> {
    const entry = { mediaType, digest: sha256(bytes), size: bytes.length, annotations: {} }
    await putBlobOnce(this, entry, () => [bytes], { signal })
    if (named) await this.putName(entry)
    return entry
  }
}

class DirectoryTarget extends LayoutTarget {
  readonly #directory: string
  readonly #blobs: BlobDirectory

  constructor(name: string, reference: Reference, directory: string) {
    super(name, reference)
    this.#directory = directory
    this.#blobs = new BlobDirectory(path.join(directory, 'blobs/sha256'))
  }

  blobSize(digest: string): Promise<number | undefined> {
    return this.#blobs.blobSize(digest)
  }

  putBlob(blob: BlobId, content: BlobContent, options?: PutBlobOptions): Promise<void> {
    return this.#blobs.putBlob(blob, content, options)
  }

  protected async putName(entry: Descriptor): Promise<void> {
    const file = path.join(this.#directory, INDEX_FILE)
    const known = await readFile(file).catch((err: unknown) => {
      if (hasErrno(err, 'ENOENT')) return undefined
      throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be read`)
    })
    replaceFile(path.join(this.#directory, LAYOUT_FILE), LAYOUT_VERSION)
    replaceFile(file, addLayoutEntry(known, entry, this.reference))
  }

  async commit(): Promise<void> {}

  async close(): Promise<void> {}
}

/** The archive grows beside its name and takes it when it is complete. */
class ArchiveTarget extends LayoutTarget {
  readonly #file: string
  readonly #beside: string
  readonly #pack = tar.pack()
  readonly #written: Promise<void>
  /** Bytes of what is in the archive, by digest. */
  readonly #blobs = new Map<string, number>()
  #index: Buffer | undefined
  /** Entries of an archive follow one another. */
  #last = Promise.resolve()
  #failure: unknown
  #committed = false

  constructor(name: string, reference: Reference, file: string) {
    super(name, reference)
    this.#file = file
    this.#beside = `${file}.${randomUUID().slice(0, 8)}.partial`
    this.#written = pipeline(
      this.#pack as unknown as NodeJS.ReadableStream,
      createWriteStream(this.#beside, { flags: 'wx', flush: true }),
    )
    this.#written.catch((err: unknown) => (this.#failure = err))
  }

  blobSize(digest: string): Promise<number | undefined> {
    return Promise.resolve(this.#blobs.get(digest))
  }

  putBlob(blob: BlobId, content: BlobContent, options: PutBlobOptions = {}): Promise<void> {
    const name = `blobs/sha256/${digestHex(blob.digest)}`
    const done = this.#last.then(async () => {
      await this.#add(name, blob.size, checked(blob, content, options))
      this.#blobs.set(blob.digest, blob.size)
    })
    this.#last = done.catch(() => undefined)
    return done
  }

  protected putName(entry: Descriptor): Promise<void> {
    this.#index = addLayoutEntry(this.#index, entry, this.reference)
    return Promise.resolve()
  }

  async commit(): Promise<void> {
    await this.#last
    const index = this.#index ?? Buffer.from('{"schemaVersion":2,"manifests":[]}')
    await this.#add(INDEX_FILE, index.length, [index])
    await this.#add(LAYOUT_FILE, LAYOUT_VERSION.length, [LAYOUT_VERSION])
    this.#pack.finalize()
    try {
      await this.#written
      await rename(this.#beside, this.#file)
      this.#committed = true
    } catch (err) {
      throw asFault(err, 'FILE_UNREADABLE', `${this.#file} cannot be written`)
    }
  }

  async close(): Promise<void> {
    if (this.#committed) return
    this.#pack.destroy()
    await this.#written.catch(() => undefined)
    await rm(this.#beside, { force: true })
  }

  async #add(
    name: string,
    size: number,
    content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  ): Promise<void> {
    const entry = this.#pack.entry({ name, size, mode: 0o644, mtime: new Date(0) })
    try {
      await pipeline(Readable.from(content), entry as unknown as NodeJS.WritableStream)
    } catch (err) {
      // What stopped the file stopped the entry.
      throw asFault(this.#failure ?? err, 'FILE_UNREADABLE', `${this.#file} cannot be written`)
    }
  }
}
