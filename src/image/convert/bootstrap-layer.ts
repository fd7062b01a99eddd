import { createHash } from 'node:crypto'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import tar from 'tar-stream'

export interface BootstrapLayer {
  /** tar+gzip. */
  readonly bytes: Buffer
  /** `sha256:…` of it. */
  readonly digest: string
  /** `sha256:…` of the tar inside. */
  readonly diffId: string
}

const DIRECTORY = 'image'
const EPOCH = new Date(0)
const gzipAsync = promisify(gzip)

/**
 * The last layer of a nydus image (rafs.md 5.2): `image/image.boot` and, for each data blob, its metadata as caches
 * keep it, so that a node needs no request for it. Equal input gives equal bytes.
 * @param metaFiles - by the hex digest of the data layer
 */
export async function packBootstrapLayer(
  bootstrap: Buffer,
  metaFiles: ReadonlyMap<string, Buffer>,
): Promise<BootstrapLayer> {
  const archive = tar.pack()
  archive.entry({ name: DIRECTORY, type: 'directory', mode: 0o755, mtime: EPOCH })
  archive.entry({ name: `${DIRECTORY}/image.boot`, mode: 0o444, mtime: EPOCH }, bootstrap)
  for (const [digestHex, meta] of metaFiles)
    archive.entry({ name: `${DIRECTORY}/${digestHex}.blob.meta`, mode: 0o444, mtime: EPOCH }, meta)
  archive.finalize()
  const pieces: Uint8Array[] = []
  for await (const piece of archive as AsyncIterable<Uint8Array>) pieces.push(piece)
  const plain = Buffer.concat(pieces)
  const bytes = await gzipAsync(plain)
  return { bytes, digest: sha256(bytes), diffId: sha256(plain) }
}

/** `sha256:…` of some bytes. */
export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
