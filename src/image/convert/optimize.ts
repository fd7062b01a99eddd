import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { sha256 } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import { encodeImage } from '../../erofs/encode-image.js'
import type { RegularInode } from '../../erofs/image-tree.js'
import { ANNOTATION } from '../../oci/annotations.js'
import { type ImageSource, type ImageTarget, ensureBlob, putBlobOnce } from '../../oci/image-store.js'
import { MEDIA_TYPE } from '../../oci/media-types.js'
import type { WantedPlatform } from '../../oci/platform.js'
import { openBlobFile } from '../build/blob-output.js'
import { CompressPool } from '../build/compress-pool.js'
import { type BuiltImage, buildImage } from '../build/image-builder.js'
import type { LayerEntry } from '../build/layer-tree.js'
import { findPrefetched } from '../build/prefetch.js'
import { ChunkReader } from '../read/chunk-reader.js'
import { DEFAULT_LIMITS } from '../tar/limits.js'
import { BOOTSTRAP_FILE, metaFileName, packBootstrapLayer } from './bootstrap-layer.js'
import { type NydusImage, blobsOf, resolveNydusImage } from './nydus-image.js'
import { WorkDirectory } from './work-directory.js'

export interface OptimizeRequest {
  readonly source: ImageSource
  readonly target: ImageTarget
  readonly platform: WantedPlatform
  /** Absolute paths, in the order in which they are read. */
  readonly files: readonly string[]
  readonly workDirectory: string
  readonly signal: AbortSignal
}

export interface OptimizeResult {
  readonly digest: string
  readonly files: number
  /** Paths that the image does not have, or that are no regular files with data. */
  readonly skipped: number
  /** Stored bytes of the new blob. */
  readonly blobSizeBytes: number
}

/** On the layer that holds the data of the listed files (nydusd.md 9.8). */
const PREFETCH_BLOB = 'containerd.io/snapshot/nydus-separated-blob-with-prefetch-files'
const BLOB_FILE = 'prefetch.blob'

/**
 * Makes an image whose listed files lie in a data blob of their own, one after the other, and are prefetched from there.
 * @throws USAGE when no file of the list has data, MANIFEST_UNSUPPORTED, faults of the stores
 */
export async function optimizeImage(request: OptimizeRequest): Promise<OptimizeResult> {
  const { source, target, platform, signal, files } = request
  const nydus = await resolveNydusImage(source, platform, signal)
  if (nydus.image.blobs.some(({ cipher }) => cipher))
    throw fault('UNIMPLEMENTED', 'encrypted images are not optimized: convert the image without encryption')
  const found = findPrefetched(nydus.image.root, files)
  const listed = [...new Set(found.filter(inode => inode.type === 'regular' && inode.chunks.length > 0))]
  const chosen = listed as RegularInode[]
  if (chosen.length === 0)
    throw fault('USAGE', `none of the ${files.length} listed files is in ${source.name} and has data`)
  const subject = { optimize: source.name, target: target.name }
  const directory = await WorkDirectory.open(request.workDirectory, subject)
  const pool = new CompressPool()
  try {
    const built = await buildBlob(nydus, chosen, directory.file(BLOB_FILE), pool, signal)
    // Each file now refers to its copy.
    for (const [i, file] of chosen.entries()) {
      const copy = built.root.children.get(String(i))
      if (copy?.type === 'regular') Object.assign(file, { chunks: copy.chunks })
    }
    const digest = await publish(request, nydus, chosen, built, directory.file(BLOB_FILE))
    const skipped = files.length - chosen.length
    return { digest, files: chosen.length, skipped, blobSizeBytes: built.sizeBytes }
  } catch (err) {
    throw signal.aborted ? signal.reason : err
  } finally {
    await pool.close()
    await directory.close()
  }
}

/** A blob with the data of the files, which are called `0`, `1`, … in its own tree. */
function buildBlob(
  nydus: NydusImage,
  files: readonly RegularInode[],
  path: string,
  pool: CompressPool,
  signal: AbortSignal,
): Promise<BuiltImage> {
  const { version, chunkSize, compressor, digester, explicitOwners } = nydus.image
  const reader = new ChunkReader(blobsOf(nydus))
  async function* body(file: RegularInode): AsyncGenerator<Uint8Array> {
    signal.throwIfAborted()
    for (const chunk of file.chunks) yield await reader.read(chunk)
  }
  function* entries(): Generator<LayerEntry> {
    for (const [i, file] of files.entries()) {
      const { mode, uid, gid, mtimeSec, mtimeNsec, sizeBytes } = file
      const name = String(i)
      const attributes = { mode, uid, gid, mtimeSec, mtimeNsec }
      yield { ...attributes, name, path: [name], type: 'regular', sizeBytes, body: body(file) }
    }
  }
  return openBlobFile(path).then(output =>
    buildImage(
      { entries: () => Readable.from(entries()) },
      output,
      {
        version,
        chunkSize,
        compressor,
        digester,
        explicitOwners,
        batchSize: 0,
        alignedChunks: false,
        inlineBootstrap: true,
        toc: version === 6,
        blobOffset: 0,
        prefetchPolicy: 'none',
        prefetchPaths: [],
        limits: DEFAULT_LIMITS,
      },
      pool,
    ),
  )
}

async function publish(
  { source, target, signal }: OptimizeRequest,
  { image, manifest, config, files: known }: NydusImage,
  prefetch: readonly RegularInode[],
  built: BuiltImage,
  blobFile: string,
): Promise<string> {
  const options = { signal }
  const data = manifest.layers.slice(0, -1)
  const files = new Map(known)
  files.set(BOOTSTRAP_FILE, encodeImage({ ...image, prefetch }).bytes)
  if (built.cacheMeta) files.set(metaFileName(built.blobId), built.cacheMeta)
  const bootstrap = await packBootstrapLayer(files)
  const blob = { digest: `sha256:${built.blobId}`, size: built.sizeBytes }
  const rootfs = { type: 'layers', diff_ids: [...config.diffIds.slice(0, -1), blob.digest, bootstrap.diffId] }
  const newConfig = Buffer.from(JSON.stringify({ ...config.document, rootfs }))
  const configId = { digest: sha256(newConfig), size: newConfig.length }
  const bootstrapId = { digest: bootstrap.digest, size: bootstrap.bytes.length }
  const last = manifest.layers.at(-1)
  const document = {
    schemaVersion: 2,
    mediaType: manifest.mediaType,
    config: { mediaType: manifest.config.mediaType, ...configId },
    layers: [
      ...data,
      {
        mediaType: MEDIA_TYPE.nydusBlob,
        ...blob,
        annotations: { [ANNOTATION.nydusBlob]: 'true', [PREFETCH_BLOB]: 'true' },
      },
      { mediaType: last?.mediaType, ...bootstrapId, annotations: last?.annotations },
    ],
    annotations: manifest.annotations,
  }
  for (const layer of data) await ensureBlob(target, layer, source, options)
  await putBlobOnce(target, blob, start => createReadStream(blobFile, { start }), options)
  await putBlobOnce(target, bootstrapId, () => [bootstrap.bytes], options)
  await putBlobOnce(target, configId, () => [newConfig], options)
  const bytes = Buffer.from(JSON.stringify(document))
  const { digest } = await target.putManifest(manifest.mediaType, bytes, { signal, named: true })
  await target.commit()
  return digest
}
