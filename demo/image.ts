/** Writes an OCI image layout (image-spec 1.1) of layers whose files come from this machine or from memory. */
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream, mkdirSync, renameSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { Transform, type TransformCallback } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { pack } from 'tar-stream'
import { MEDIA_TYPE } from '../src/oci/media-types.js'

/** One entry of a layer, its path without a leading slash. */
export type Entry = { path: string; mode: number } & (
  | { type: 'directory' }
  | { type: 'symlink'; target: string }
  | { type: 'file'; sizeBytes: number; source: { file: string } | { bytes: Buffer } }
)

interface Blob {
  digest: string
  sizeBytes: number
}

export interface ImageSummary {
  /** Compressed layers, as a registry holds them. */
  layerBytes: number
  /** Files of all layers. */
  fileBytes: number
  files: number
}

/** Writes the image into `directory` with one tag. `layers`: lowest first. */
export async function writeImage(
  directory: string,
  tag: string,
  layers: Entry[][],
  config: Record<string, unknown>,
): Promise<ImageSummary> {
  mkdirSync(path.join(directory, 'blobs/sha256'), { recursive: true })
  const written: { blob: Blob; diffId: string }[] = []
  for (const entries of layers) written.push(await writeLayer(directory, entries))
  const configBlob = writeJson(directory, {
    os: 'linux',
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    config,
    rootfs: { type: 'layers', diff_ids: written.map(layer => layer.diffId) },
  })
  const manifest = writeJson(directory, {
    schemaVersion: 2,
    mediaType: MEDIA_TYPE.ociManifest,
    config: descriptor(MEDIA_TYPE.ociConfig, configBlob),
    layers: written.map(layer => descriptor(MEDIA_TYPE.ociLayerGzip, layer.blob)),
  })
  const annotations = { 'org.opencontainers.image.ref.name': tag }
  const index = {
    schemaVersion: 2,
    manifests: [{ ...descriptor(MEDIA_TYPE.ociManifest, manifest), annotations }],
  }
  writeFileSync(path.join(directory, 'index.json'), JSON.stringify(index))
  writeFileSync(path.join(directory, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }))
  const files = layers.flat().filter(entry => entry.type === 'file')
  return {
    layerBytes: written.reduce((sum, layer) => sum + layer.blob.sizeBytes, 0),
    fileBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
    files: files.length,
  }
}

async function writeLayer(directory: string, entries: Entry[]): Promise<{ blob: Blob; diffId: string }> {
  const tar = pack()
  const uncompressed = new Meter()
  const compressed = new Meter()
  const temporary = path.join(directory, 'blobs/layer.tmp')
  const written = pipeline(tar, uncompressed, createGzip(), compressed, createWriteStream(temporary))
  for (const entry of entries) await addEntry(tar, entry)
  tar.finalize()
  await written
  const blob = { digest: compressed.digest(), sizeBytes: compressed.sizeBytes }
  renameSync(temporary, blobPath(directory, blob.digest))
  return { blob, diffId: uncompressed.digest() }
}

async function addEntry(tar: ReturnType<typeof pack>, entry: Entry): Promise<void> {
  const common = { name: entry.path, mode: entry.mode, mtime: new Date(0), uid: 0, gid: 0 }
  if (entry.type === 'directory') return void tar.entry({ ...common, type: 'directory' })
  if (entry.type === 'symlink') {
    return void tar.entry({ ...common, type: 'symlink', linkname: entry.target })
  }
  if ('bytes' in entry.source) return void tar.entry({ ...common, type: 'file' }, entry.source.bytes)
  const sink = tar.entry({ ...common, type: 'file', size: entry.sizeBytes })
  await pipeline(createReadStream(entry.source.file), sink)
}

function writeJson(directory: string, value: unknown): Blob {
  const bytes = Buffer.from(JSON.stringify(value))
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
  writeFileSync(blobPath(directory, digest), bytes)
  return { digest, sizeBytes: bytes.length }
}

function blobPath(directory: string, digest: string): string {
  return path.join(directory, 'blobs/sha256', digest.slice(7))
}

function descriptor(mediaType: string, blob: Blob): { mediaType: string; digest: string; size: number } {
  return { mediaType, digest: blob.digest, size: blob.sizeBytes }
}

/** Passes bytes on and knows their digest and number at the end. */
class Meter extends Transform {
  sizeBytes = 0
  readonly #hash = createHash('sha256')

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#hash.update(chunk)
    this.sizeBytes += chunk.length
    done(null, chunk)
  }

  digest(): string {
    return `sha256:${this.#hash.digest('hex')}`
  }
}
