/** An OCI layout as an image target: a directory that may hold other images, or a new tar archive. */
import { createHash, randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import tar from 'tar-stream'
import { digestHex, sha256 } from '../common/digest.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import type { BlobContent, BlobId, ImageTarget, PutBlobOptions, StoreOptions } from './image-store.js'
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

/** Passes content on, and ends with an error unless it is the blob it claims to be. */
async function* checked(
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
    if (!(await this.hasBlob(entry))) await this.putBlob(entry, () => [bytes], { signal })
    if (named) await this.putName(entry)
    return entry
  }
}

class DirectoryTarget extends LayoutTarget {
  readonly #directory: string

  constructor(name: string, reference: Reference, directory: string) {
    super(name, reference)
    this.#directory = directory
  }

  async blobSize(digest: string): Promise<number | undefined> {
    try {
      return (await stat(this.#blobFile(digest))).size
    } catch (err) {
      if (hasErrno(err, 'ENOENT')) return undefined
      throw asFault(err, 'FILE_UNREADABLE', `${this.#directory} cannot be read`)
    }
  }

  async putBlob(blob: BlobId, content: BlobContent, options: PutBlobOptions = {}): Promise<void> {
    const stream = Readable.from(checked(blob, content, options))
    await this.#replace(this.#blobFile(blob.digest), file =>
      pipeline(stream, createWriteStream(file, { flags: 'wx', flush: true })),
    )
  }

  protected async putName(entry: Descriptor): Promise<void> {
    const file = path.join(this.#directory, INDEX_FILE)
    const known = await readFile(file).catch((err: unknown) => {
      if (hasErrno(err, 'ENOENT')) return undefined
      throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be read`)
    })
    await this.#write(path.join(this.#directory, LAYOUT_FILE), LAYOUT_VERSION)
    await this.#write(file, addLayoutEntry(known, entry, this.reference))
  }

  async commit(): Promise<void> {}

  async close(): Promise<void> {}

  #blobFile(digest: string): string {
    return path.join(this.#directory, 'blobs/sha256', digestHex(digest))
  }

  #write(file: string, bytes: Uint8Array): Promise<void> {
    return this.#replace(file, beside => writeFile(beside, bytes, { flush: true }))
  }

  async #replace(file: string, write: (beside: string) => Promise<void>): Promise<void> {
    const beside = besidePath(file)
    try {
      await write(beside)
      await rename(beside, file)
    } catch (err) {
      await rm(beside, { force: true })
      throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be written`)
    }
  }
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
    this.#beside = besidePath(file)
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

function besidePath(file: string): string {
  return path.join(path.dirname(file), `.${path.basename(file)}.${randomUUID().slice(0, 8)}.partial`)
}
