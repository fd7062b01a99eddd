/** An OCI layout as an image source: a directory, or a tar archive of one, which is read in place. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import path from 'node:path'
import tar from 'tar-stream'
import { digestHex } from '../common/digest.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import type { BlobId, ImageSource, ManifestId, StoreOptions } from './image-store.js'
import { INDEX_FILE, parseLayoutIndex, selectLayoutEntry } from './layout-index.js'
import { MAX_INDEX_BYTES, parseManifest } from './manifest.js'
import { type Reference, formatReference } from './reference.js'
import type { FetchedManifest } from './registry-client.js'

/** Where the bytes of a file of the layout are. */
interface FilePart {
  readonly file: string
  readonly offset: number
  readonly sizeBytes: number
}

type FindPart = (name: string) => Promise<FilePart | undefined>

const READ_BYTES = 1 << 20

/**
 * Opens a layout directory or an uncompressed archive of one; an archive is read through once, to know what is where.
 * @throws FILE_MISSING, FILE_UNREADABLE, MANIFEST_INVALID for an archive that is none
 */
export async function openLayoutSource(file: string, reference?: Reference): Promise<ImageSource> {
  const name = reference ? `${formatReference(reference)} in ${file}` : file
  try {
    const isDirectory = (await stat(file)).isDirectory()
    const find = isDirectory ? findInDirectory(file) : findInArchive(await scanArchive(file))
    return new LayoutSource(name, reference, find)
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('FILE_MISSING', `there is no OCI layout or archive ${file}: check the path`, { cause: err })
    throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be read`)
  }
}

class LayoutSource implements ImageSource {
  readonly name: string
  readonly reference: Reference | undefined
  readonly #find: FindPart
  readonly #open = new Map<string, Promise<FileHandle>>()

  constructor(name: string, reference: Reference | undefined, find: FindPart) {
    this.name = name
    this.reference = reference
    this.#find = find
  }

  async resolve(): Promise<FetchedManifest> {
    const part = await this.#find(INDEX_FILE)
    if (!part || part.sizeBytes > MAX_INDEX_BYTES)
      throw fault('MANIFEST_INVALID', `${this.name}: there is no index.json: this is no OCI layout`)
    const index = parseLayoutIndex(await this.#read(part, 0, part.sizeBytes), this.name)
    return this.fetchManifest(selectLayoutEntry(index, this.reference, this.name))
  }

  async fetchManifest(entry: ManifestId): Promise<FetchedManifest> {
    const { sizeBytes } = await this.#blob(entry.digest)
    if (sizeBytes > MAX_INDEX_BYTES)
      throw fault('MANIFEST_INVALID', `${this.name}: manifest ${entry.digest} has ${sizeBytes} bytes`)
    const pieces: Uint8Array[] = []
    for await (const piece of this.streamBlob(entry)) pieces.push(piece)
    const bytes = Buffer.concat(pieces)
    const content = parseManifest(bytes, entry.mediaType, `manifest ${entry.digest} of ${this.name}`)
    const { mediaType } = content
    return {
      descriptor: { mediaType, digest: entry.digest, size: sizeBytes, annotations: {} },
      bytes,
      content,
    }
  }

  async *streamBlob({ digest, size }: BlobId, { signal }: StoreOptions = {}): AsyncGenerator<Uint8Array> {
    const { file, offset, sizeBytes } = await this.#blob(digest)
    if (sizeBytes !== size) throw this.#mismatch(digest, `it has ${sizeBytes} bytes instead of ${size}`)
    if (sizeBytes === 0) return
    const hash = createHash('sha256')
    const stream = createReadStream(file, {
      start: offset,
      end: offset + sizeBytes - 1,
      highWaterMark: READ_BYTES,
    })
    for await (const piece of stream as AsyncIterable<Uint8Array>) {
      signal?.throwIfAborted()
      hash.update(piece)
      yield piece
    }
    const found = `sha256:${hash.digest('hex')}`
    if (found !== digest) throw this.#mismatch(digest, `its bytes have the digest ${found}`)
  }

  async readBlobRange(blob: BlobId, offset: number, length: number): Promise<Uint8Array> {
    const part = await this.#blob(blob.digest)
    if (offset + length > part.sizeBytes)
      throw this.#mismatch(blob.digest, `it ends before byte ${offset + length}`)
    return this.#read(part, offset, length)
  }

  async close(): Promise<void> {
    for (const handle of this.#open.values()) await (await handle).close()
    this.#open.clear()
  }

  async #blob(digest: string): Promise<FilePart> {
    const part = await this.#find(`blobs/sha256/${digestHex(digest)}`)
    if (part) return part
    throw fault('REGISTRY_NOT_FOUND', `${this.name} lacks the blob ${digest}: make the layout again`)
  }

  async #read({ file, offset }: FilePart, at: number, length: number): Promise<Uint8Array> {
    let handle = this.#open.get(file)
    if (!handle) {
      handle = open(file)
      this.#open.set(file, handle)
    }
    const buffer = Buffer.allocUnsafe(length)
    const { bytesRead } = await (await handle).read(buffer, 0, length, offset + at)
    if (bytesRead === length) return buffer
    throw fault(
      'RAFS_TRUNCATED',
      `${file} ended at byte ${offset + at + bytesRead}: it was cut while it was read`,
    )
  }

  #mismatch(digest: string, why: string): Error {
    return fault(
      'DIGEST_MISMATCH',
      `blob ${digest} of ${this.name} is damaged: ${why}: make the layout again`,
    )
  }
}

function findInDirectory(directory: string): FindPart {
  return async name => {
    const file = path.join(directory, name)
    try {
      return { file, offset: 0, sizeBytes: (await stat(file)).size }
    } catch (err) {
      if (hasErrno(err, 'ENOENT')) return undefined
      throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be read`)
    }
  }
}

function findInArchive(parts: ReadonlyMap<string, FilePart>): FindPart {
  return name => Promise.resolve(parts.get(name))
}

async function scanArchive(file: string): Promise<Map<string, FilePart>> {
  const parts = new Map<string, FilePart>()
  const extract = tar.extract()
  const stream = createReadStream(file, { highWaterMark: READ_BYTES })
  stream.on('error', err => extract.destroy(err)).pipe(extract)
  try {
    for await (const entry of extract) {
      // Documented, but missing in the package's types.
      const { name, type, size, byteOffset } = entry.header as typeof entry.header & { byteOffset: number }
      if (type === 'file' && size !== undefined)
        parts.set(path.posix.normalize(name), { file, offset: byteOffset, sizeBytes: size })
      entry.resume()
    }
  } catch (err) {
    throw fault(
      'MANIFEST_INVALID',
      `${file} is no tar archive of an OCI layout, or it is cut: save it again`,
      {
        cause: err,
      },
    )
  } finally {
    stream.destroy()
  }
  if (parts.has(INDEX_FILE)) return parts
  throw fault(
    'MANIFEST_INVALID',
    `${file} has no index.json: save the image as an OCI archive (skopeo copy … oci-archive:FILE)`,
  )
}
