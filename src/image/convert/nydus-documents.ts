import { NYDUS_FEATURE } from '../../oci/platform.js'
import { ANNOTATION } from '../../oci/annotations.js'
import type { Descriptor, ImageConfig, Manifest } from '../../oci/manifest.js'
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
  readonly fsVersion: '5' | '6'
  /** The manifest that the image came from. */
  readonly source: Descriptor
  readonly sourceReference: string
  /** Name and version of the converter. */
  readonly builder: string
  /** The manifest names the source as its subject. */
  readonly withReferrer: boolean
}

/** One image of an index. */
export interface IndexEntry {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly platform: { readonly os: string; readonly architecture: string; readonly variant?: string }
  /** `nydusTwin`: it stands beside the plain image of the same platform. */
  readonly kind: 'image' | 'nydusTwin'
}

export interface ImageMediaTypes {
  readonly manifest: string
  readonly config: string
  readonly bootstrapLayer: string
}

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
  const { mediaTypes, config, layers, bootstrap, fsVersion, source, withReferrer } = parts
  const { mediaType, digest, size } = source
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
        annotations: { [ANNOTATION.nydusBootstrap]: 'true', [ANNOTATION.nydusFsVersion]: fsVersion },
      },
    ],
    ...(withReferrer ? { subject: { mediaType, digest, size } } : {}),
    annotations: {
      [MANIFEST_ANNOTATION.builderVersion]: parts.builder,
      [MANIFEST_ANNOTATION.fsVersion]: fsVersion,
      [MANIFEST_ANNOTATION.sourceDigest]: digest,
      [MANIFEST_ANNOTATION.sourceReference]: parts.sourceReference,
    },
  })
}

/** Docker's type where an image has docker's types, for who reads one reads the other. */
export function indexMediaType(entries: readonly IndexEntry[], oci: boolean): string {
  const isDocker = entries.some(({ mediaType }) => mediaType === MEDIA_TYPE.dockerManifest)
  return isDocker && !oci ? MEDIA_TYPE.dockerList : MEDIA_TYPE.ociIndex
}

/** What an index says of an image: the platform that the image is found under, or else the one its config names. */
export function platformOf({ platform }: Descriptor, config: ImageConfig): IndexEntry['platform'] {
  const { os, architecture, variant } = platform ?? config
  return { os, architecture, ...(variant === undefined ? {} : { variant }) }
}

/** An index of images; a nydus twin is marked so that only who knows it takes it (rafs.md 5.4). */
export function encodeIndex(mediaType: string, entries: readonly IndexEntry[]): Buffer {
  return encodeJson({
    schemaVersion: 2,
    mediaType,
    manifests: entries.map(({ kind, mediaType, digest, size, platform }) =>
      kind === 'image'
        ? { mediaType, digest, size, platform }
        : {
            mediaType,
            digest,
            size,
            artifactType: MEDIA_TYPE.nydusManifest,
            platform: { ...platform, 'os.features': [NYDUS_FEATURE] },
          },
    ),
  })
}

function encodeJson(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}
