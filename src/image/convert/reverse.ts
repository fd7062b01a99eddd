import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { PassThrough } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { sha256 } from '../../common/digest.js'
import {
  type BlobContent,
  type BlobId,
  type ImageSource,
  type ImageTarget,
  putBlobOnce,
} from '../../oci/image-store.js'
import type { Descriptor } from '../../oci/manifest.js'
import { MEDIA_TYPE } from '../../oci/media-types.js'
import { ChunkReader } from '../read/chunk-reader.js'
import { unpackToTar } from '../read/unpack-tar.js'
import { type IndexEntry, encodeIndex, indexMediaType, platformOf } from './nydus-documents.js'
import { type NydusImage, blobsOf, fetchNydusImage } from './nydus-image.js'
import { type Platforms, requireManifest, selectEntries } from './source-image.js'
import { WorkDirectory } from './work-directory.js'

export interface ReverseRequest {
  readonly source: ImageSource
  readonly target: ImageTarget
  readonly platforms: Platforms
  /** OCI media types even where the source has docker's. */
  readonly oci: boolean
  readonly workDirectory: string
  readonly signal: AbortSignal
}

export interface ReverseResult {
  readonly digest: string
  readonly sourceSizeBytes: number
  readonly targetSizeBytes: number
  readonly uploadedBytes: number
  readonly elapsedMs: number
  /** Sockets, which no layer can hold. */
  readonly droppedSockets: number
}

interface Converted {
  readonly entry: IndexEntry
  readonly sizeBytes: number
}

/**
 * Makes plain images of nydus images: one tar+gzip layer that holds the whole tree.
 * @throws MANIFEST_UNSUPPORTED for an image that is no nydus image, RAFS_*, CHUNK_*, faults of the stores
 */
export async function reverseImage(request: ReverseRequest): Promise<ReverseResult> {
  const startedMs = performance.now()
  const { source, target, platforms, signal } = request
  const root = await source.resolve({ signal })
  const entries =
    root.content.kind === 'manifest'
      ? [root.descriptor]
      : selectEntries(root.content, 'nydus', platforms, source.name)
  const subject = { reverse: source.name, target: target.name }
  const directory = await WorkDirectory.open(request.workDirectory, subject)
  try {
    const reversal = new Reversal(request, directory)
    const converted: Converted[] = []
    for (const entry of entries) converted.push(await reversal.convert(entry, entries.length === 1))
    let digest = converted[0]?.entry.digest ?? ''
    if (converted.length > 1) {
      const images = converted.map(({ entry }) => entry)
      const mediaType = indexMediaType(images, request.oci)
      const bytes = encodeIndex(mediaType, images)
      digest = (await target.putManifest(mediaType, bytes, { signal, named: true })).digest
    }
    await target.commit()
    return {
      digest,
      sourceSizeBytes: reversal.sourceSizeBytes,
      targetSizeBytes: converted.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      uploadedBytes: reversal.uploadedBytes,
      elapsedMs: performance.now() - startedMs,
      droppedSockets: reversal.droppedSockets,
    }
  } catch (err) {
    throw signal.aborted ? signal.reason : err
  } finally {
    await directory.close()
  }
}

class Reversal {
  sourceSizeBytes = 0
  uploadedBytes = 0
  droppedSockets = 0
  readonly #request: ReverseRequest
  readonly #directory: WorkDirectory

  constructor(request: ReverseRequest, directory: WorkDirectory) {
    this.#request = request
    this.#directory = directory
  }

  async convert(descriptor: Descriptor, named: boolean): Promise<Converted> {
    const { source, target, signal, oci } = this.#request
    const original = requireManifest(await source.fetchManifest(descriptor, { signal }), source.name)
    const nydus = await fetchNydusImage(source, original, signal)
    for (const { size } of [...original.layers, original.config]) this.sourceSizeBytes += size
    const isDocker = !oci && original.mediaType === MEDIA_TYPE.dockerManifest
    const layer = await this.#writeLayer(nydus)
    const config = plainConfig(nydus, layer.diffId)
    const manifest = {
      schemaVersion: 2,
      mediaType: isDocker ? MEDIA_TYPE.dockerManifest : MEDIA_TYPE.ociManifest,
      config: {
        mediaType: isDocker ? MEDIA_TYPE.dockerConfig : MEDIA_TYPE.ociConfig,
        digest: sha256(config),
        size: config.length,
      },
      layers: [
        {
          mediaType: isDocker ? MEDIA_TYPE.dockerLayerGzip : MEDIA_TYPE.ociLayerGzip,
          digest: layer.digest,
          size: layer.size,
        },
      ],
    }
    await this.#put(layer, start => createReadStream(this.#directory.file(LAYER_FILE), { start }))
    await this.#put(manifest.config, () => [config])
    const bytes = Buffer.from(JSON.stringify(manifest))
    const { digest, size } = await target.putManifest(manifest.mediaType, bytes, { signal, named })
    const platform = platformOf(descriptor, nydus.config)
    return {
      entry: { mediaType: manifest.mediaType, digest, size, platform, kind: 'image' },
      sizeBytes: layer.size + config.length,
    }
  }

  async #put(blob: BlobId, content: BlobContent): Promise<void> {
    const { target, signal } = this.#request
    this.uploadedBytes += await putBlobOnce(target, blob, content, { signal })
  }

  /** Writes the tree to a file, for the digest of a blob must be known before it is uploaded. */
  async #writeLayer(nydus: NydusImage): Promise<{ digest: string; size: number; diffId: string }> {
    const { signal } = this.#request
    const plain = new PassThrough({ highWaterMark: 1 << 20 })
    const tarHash = createHash('sha256')
    const layerHash = createHash('sha256')
    let size = 0
    const written = pipeline(
      plain,
      createGzip(),
      async function* (pieces: AsyncIterable<Buffer>) {
        for await (const piece of pieces) {
          layerHash.update(piece)
          size += piece.length
          yield piece
        }
      },
      createWriteStream(this.#directory.file(LAYER_FILE)),
      { signal },
    )
    const sink = async (bytes: Uint8Array): Promise<void> => {
      signal.throwIfAborted()
      tarHash.update(bytes)
      if (!plain.write(bytes))
        await Promise.race([new Promise(resolve => plain.once('drain', resolve)), written])
    }
    const filled = unpackToTar(nydus.image, new ChunkReader(blobsOf(nydus)), sink).then(
      ({ sockets }) => {
        this.droppedSockets += sockets
        plain.end()
      },
      (err: unknown) => {
        plain.destroy(err instanceof Error ? err : undefined)
        throw err
      },
    )
    await Promise.all([filled, written])
    return { digest: `sha256:${layerHash.digest('hex')}`, size, diffId: `sha256:${tarHash.digest('hex')}` }
  }
}

const LAYER_FILE = 'layer.tar.gz'

/** The nydus image's config with one layer; its history stays, as of layers that are no more. */
function plainConfig({ config }: NydusImage, diffId: string): Buffer {
  const { history } = config.document
  const past = (Array.isArray(history) ? (history as unknown[]) : []).filter(
    (entry): entry is Record<string, unknown> => typeof entry === 'object' && entry !== null,
  )
  const empty = past
    .filter(({ comment }) => comment !== 'Nydus Bootstrap Layer')
    .map(entry => ({ ...entry, empty_layer: true }))
  return Buffer.from(
    JSON.stringify({
      ...config.document,
      rootfs: { type: 'layers', diff_ids: [diffId] },
      history: [...empty, { created_by: 'nydusify convert --reverse' }],
    }),
  )
}
