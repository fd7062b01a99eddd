/** Media types of images as registries hold them: OCI, Docker and nydus. */
export const MEDIA_TYPE = {
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociLayer: 'application/vnd.oci.image.layer.v1.tar',
  ociLayerGzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  ociLayerZstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  dockerLayerGzip: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
  dockerLayer: 'application/vnd.docker.image.rootfs.diff.tar',
  dockerSchema1: 'application/vnd.docker.distribution.manifest.v1+json',
  dockerSchema1Signed: 'application/vnd.docker.distribution.manifest.v1+prettyjws',
  /** A RAFS data blob, stored as it is. */
  nydusBlob: 'application/vnd.oci.image.layer.nydus.blob.v1',
  /** Config of a nydus manifest that stands beside the plain one in an index. */
  nydusConfig: 'application/vnd.nydus.image.config.v1+json',
  /** `artifactType` of a nydus manifest's descriptor in an index. */
  nydusManifest: 'application/vnd.nydus.image.manifest.v1+json',
} as const

const MANIFESTS: readonly string[] = [MEDIA_TYPE.ociManifest, MEDIA_TYPE.dockerManifest]
const INDEXES: readonly string[] = [MEDIA_TYPE.ociIndex, MEDIA_TYPE.dockerList]

/** What to accept when a manifest is asked for, the newer forms first. */
export const ACCEPT_MANIFESTS: readonly string[] = [
  MEDIA_TYPE.ociManifest,
  MEDIA_TYPE.ociIndex,
  MEDIA_TYPE.dockerManifest,
  MEDIA_TYPE.dockerList,
]

export function isManifestType(mediaType: string): boolean {
  return MANIFESTS.includes(mediaType)
}

export function isIndexType(mediaType: string): boolean {
  return INDEXES.includes(mediaType)
}

export type LayerCompression = 'none' | 'gzip' | 'zstd'

/** How the tar of a plain layer is compressed; undefined for what is not a tar layer (a RAFS blob, say). */
export function layerCompression(mediaType: string): LayerCompression | undefined {
  switch (mediaType) {
    case MEDIA_TYPE.ociLayer:
    case MEDIA_TYPE.dockerLayer:
      return 'none'
    case MEDIA_TYPE.ociLayerGzip:
    case MEDIA_TYPE.dockerLayerGzip:
      return 'gzip'
    case MEDIA_TYPE.ociLayerZstd:
      return 'zstd'
    default:
      return undefined
  }
}

/** A media type without its parameters, lower-case; empty when there is none. */
export function bareMediaType(contentType: string | undefined): string {
  return (contentType ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? ''
}
