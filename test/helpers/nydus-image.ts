/** Lazily read images, layer by layer, in a registry that misbehaves on request. */
import { gzipSync } from 'node:zlib'
import { ANNOTATION } from '../../src/oci/annotations.js'
import { MEDIA_TYPE } from '../../src/oci/media-types.js'
import { type FaultRegistry, digestOf } from './registry.js'
import { type TarItem, tarBytes } from './tar-bytes.js'

export interface NydusLayer {
  bytes: Buffer
  diffId: string
  mediaType: string
  annotations: Record<string, string>
}

/** The layer of a data blob. */
export function blobLayer(blob: Buffer): NydusLayer {
  return {
    bytes: blob,
    diffId: digestOf(blob),
    mediaType: MEDIA_TYPE.nydusBlob,
    annotations: { [ANNOTATION.nydusBlob]: 'true' },
  }
}

/** The layer of a bootstrap, with whatever it is to hold. */
export function bootstrapLayer(items: TarItem[]): NydusLayer {
  const tar = tarBytes(items)
  return {
    bytes: gzipSync(tar),
    diffId: digestOf(tar),
    mediaType: MEDIA_TYPE.ociLayerGzip,
    annotations: { [ANNOTATION.nydusBootstrap]: 'true' },
  }
}

export const DIRECTORY: TarItem = { name: 'image', type: '5', mode: 0o755 }
/** The same, with these bytes where the bootstrap is looked for. */
export const holding = (bytes: Buffer): NydusLayer =>
  bootstrapLayer([DIRECTORY, { name: 'image/image.boot', body: bytes }])

/** An image of these layers under a tag. */
export function addImage(registry: FaultRegistry, tag: string, layers: NydusLayer[]): void {
  const rootfs = { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) }
  const config = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs, tag }))
  for (const bytes of [config, ...new Set(layers.map(layer => layer.bytes))]) registry.addBlob(bytes)
  const document = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPE.ociManifest,
    config: { mediaType: MEDIA_TYPE.ociConfig, digest: digestOf(config), size: config.length },
    layers: layers.map(({ bytes, mediaType, annotations }) => ({
      mediaType,
      digest: digestOf(bytes),
      size: bytes.length,
      annotations,
    })),
  }
  registry.addManifest(document, { tag })
}
