import { createHash } from 'node:crypto'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { createGzip, gunzip } from 'node:zlib'
import tar from 'tar-stream'
import { sha256 } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { limitBufferGarbage } from '../../common/garbage.js'

export interface BootstrapLayer {
  /** tar+gzip. */
  readonly bytes: Buffer
  /** `sha256:…` of it. */
  readonly digest: string
  /** `sha256:…` of the tar inside. */
  readonly diffId: string
}

/** Where the bootstrap is in its layer; the oldest images have it at the root of the archive. */
export const BOOTSTRAP_FILE = 'image/image.boot'
const OLD_BOOTSTRAP_FILE = 'image.boot'
const DIRECTORY = 'image'
const EPOCH = new Date(0)
/** A bootstrap is at most 2 GiB; an archive of one that unpacks to more is a bomb. */
const MAX_LAYER_BYTES = 2 ** 31
const gunzipAsync = promisify(gunzip)

/** The path in the bootstrap layer of what caches keep of a data blob's metadata. */
export function metaFileName(digestHex: string): string {
  return `${DIRECTORY}/${digestHex}.blob.meta`
}

/**
 * The last layer of a nydus image (rafs.md 5.2): `image/image.boot` and, for each data blob, its metadata as caches
 * keep it, so that a node needs no request for it. Equal input gives equal bytes.
 * @param files - by their path in the archive, below `image/`
 */
export async function packBootstrapLayer(files: ReadonlyMap<string, Buffer>): Promise<BootstrapLayer> {
  limitBufferGarbage()
  const archive = tar.pack()
  archive.entry({ name: DIRECTORY, type: 'directory', mode: 0o755, mtime: EPOCH })
  for (const [name, bytes] of files) archive.entry({ name, mode: 0o444, mtime: EPOCH }, bytes)
  archive.finalize()
  // Compressed as it comes: a bootstrap may have a hundred megabytes, and there is one of it in memory already.
  const plain = createHash('sha256')
  const pieces: Buffer[] = []
  await pipeline(
    async function* () {
      for await (const part of archive as AsyncIterable<Uint8Array>) {
        plain.update(part)
        yield part
      }
    },
    createGzip(),
    async (parts: AsyncIterable<Buffer>) => {
      for await (const part of parts) pieces.push(part)
    },
  )
  const bytes = Buffer.concat(pieces)
  return { bytes, digest: sha256(bytes), diffId: `sha256:${plain.digest('hex')}` }
}

/** The regular files of a bootstrap layer by their path. @throws TAR_INVALID */
export async function unpackBootstrapLayer(bytes: Uint8Array): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>()
  try {
    const isGzip = bytes[0] === 0x1f && bytes[1] === 0x8b
    const archive = tar.extract()
    archive.end(isGzip ? await gunzipAsync(bytes, { maxOutputLength: MAX_LAYER_BYTES }) : bytes)
    for await (const entry of archive) {
      const pieces: Uint8Array[] = []
      for await (const piece of entry as AsyncIterable<Uint8Array>) pieces.push(piece)
      const name = entry.header.name.replace(/^(?:\.?\/)+/, '')
      if (entry.header.type === 'file') files.set(name, Buffer.concat(pieces))
    }
  } catch (err) {
    throw fault(
      'TAR_INVALID',
      'the bootstrap layer is no tar archive, or it is cut: convert the image anew',
      {
        cause: err,
      },
    )
  }
  return files
}

/** The bootstrap among the files of its layer. @throws IMAGE_INVALID */
export function bootstrapOf(files: ReadonlyMap<string, Buffer>): Buffer {
  const bootstrap = files.get(BOOTSTRAP_FILE) ?? files.get(OLD_BOOTSTRAP_FILE)
  if (bootstrap) return bootstrap
  throw fault('IMAGE_INVALID', `the bootstrap layer has no ${BOOTSTRAP_FILE}: convert the image anew`)
}
