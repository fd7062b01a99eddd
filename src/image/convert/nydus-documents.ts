import { ANNOTATION } from '../../oci/annotations.js'
import type { Manifest } from '../../oci/manifest.js'
import { MEDIA_TYPE } from '../../oci/media-types.js'

/** A layer of the image to be. */
export interface DataLayer {
  /** `sha256:…`; also its diff id. */
  readonly digest: string
  readonly sizeBytes: number
}

export interface NydusManifestParts {
  readonly mediaTypes: ImageMediaTypes
  readonly config: { readonly digest: string; readonly sizeBytes: number }
  /** Lowest first. */
  readonly layers: readonly DataLayer[]
  readonly bootstrap: { readonly digest: string; readonly sizeBytes: number }
  /** Where the image came from. */
  readonly sourceDigest: string
  readonly sourceReference: string
  /** Name and version of the converter. */
  readonly builder: string
}

export interface ImageMediaTypes {
  readonly manifest: string
  readonly config: string
  readonly bootstrapLayer: string
}

const FS_VERSION = '6'

/** Keys that tell where an image was made, and of what. */
const MANIFEST_ANNOTATION = {
  builderVersion: 'containerd.io/snapshot/nydus-builder-version',
  fsVersion: ANNOTATION.nydusFsVersion,
  sourceDigest: 'containerd.io/snapshot/nydus-source-digest',
  sourceReference: 'containerd.io/snapshot/nydus-source-reference',
} as const

/** Types of the converted image: those of its source, or OCI's. */
export function targetMediaTypes(source: Manifest, oci: boolean): ImageMediaTypes {
  if (!oci && source.mediaType === MEDIA_TYPE.dockerManifest) {
    return {
      manifest: MEDIA_TYPE.dockerManifest,
      config: MEDIA_TYPE.dockerConfig,
      bootstrapLayer: MEDIA_TYPE.dockerLayerGzip,
    }
  }
  return {
    manifest: MEDIA_TYPE.ociManifest,
    config: MEDIA_TYPE.ociConfig,
    bootstrapLayer: MEDIA_TYPE.ociLayerGzip,
  }
}

/** The source's config with the layers of the converted image, everything else as it was. */
export function encodeNydusConfig(
  document: Readonly<Record<string, unknown>>,
  layers: readonly DataLayer[],
  bootstrapDiffId: string,
): Buffer {
  const history = Array.isArray(document['history']) ? (document['history'] as unknown[]) : []
  const rootfs = { type: 'layers', diff_ids: [...layers.map(({ digest }) => digest), bootstrapDiffId] }
  const entry = { created_by: 'Nydus Converter', comment: 'Nydus Bootstrap Layer' }
  return encodeJson({ ...document, rootfs, history: [...history, entry] })
}

/** The manifest of a nydus image (rafs.md 5.1). */
export function encodeNydusManifest(parts: NydusManifestParts): Buffer {
  const { mediaTypes, config, layers, bootstrap } = parts
  return encodeJson({
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    config: { mediaType: mediaTypes.config, digest: config.digest, size: config.sizeBytes },
    layers: [
      ...layers.map(({ digest, sizeBytes }) => ({
        mediaType: MEDIA_TYPE.nydusBlob,
        digest,
        size: sizeBytes,
        annotations: { [ANNOTATION.nydusBlob]: 'true' },
      })),
      {
        mediaType: mediaTypes.bootstrapLayer,
        digest: bootstrap.digest,
        size: bootstrap.sizeBytes,
        annotations: { [ANNOTATION.nydusBootstrap]: 'true', [ANNOTATION.nydusFsVersion]: FS_VERSION },
      },
    ],
    annotations: {
      [MANIFEST_ANNOTATION.builderVersion]: parts.builder,
      [MANIFEST_ANNOTATION.fsVersion]: FS_VERSION,
      [MANIFEST_ANNOTATION.sourceDigest]: parts.sourceDigest,
      [MANIFEST_ANNOTATION.sourceReference]: parts.sourceReference,
    },
  })
}

function encodeJson(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}
