import { fault } from '../../common/fault.js'
import {
  type Descriptor,
  type ImageConfig,
  type Manifest,
  MAX_INDEX_BYTES,
  isNydusManifest,
  parseImageConfig,
} from '../../oci/manifest.js'
import { layerCompression } from '../../oci/media-types.js'
import { type WantedPlatform, isNydusEntry, selectManifest } from '../../oci/platform.js'
import { type Reference, formatReference, manifestSelector } from '../../oci/reference.js'
import type { RegistryClient } from '../../oci/registry-client.js'

/** A plain image that can be converted. */
export interface SourceImage {
  readonly reference: Reference
  /** `sha256:…` of the manifest that was chosen. */
  readonly digest: string
  readonly manifest: Manifest
  readonly config: ImageConfig
}

/** Layers that only their first publisher may distribute, but which are tar archives like others. */
const RESTRICTED_LAYER =
  /^application\/vnd\.(?:oci\.image\.layer\.nondistributable\.v1\.tar|docker\.image\.rootfs\.foreign\.diff\.tar)/

/**
 * Resolves a reference to an image of the platform and checks that it is one to convert.
 * @throws MANIFEST_UNSUPPORTED for a nydus image and for layers that are no archives, MANIFEST_INVALID, REGISTRY_*
 */
export async function fetchSourceImage(
  client: RegistryClient,
  reference: Reference,
  platform: WantedPlatform,
  signal: AbortSignal,
): Promise<SourceImage> {
  const name = formatReference(reference)
  const { repository } = reference
  let fetched = await client.fetchManifest(repository, manifestSelector(reference), { signal })
  if (fetched.content.kind === 'index') {
    const entry = selectManifest(fetched.content, 'plain', platform)
    if (isNydusEntry(entry)) throw alreadyNydus(name)
    fetched = await client.fetchManifest(repository, entry.digest, { signal })
  }
  const { content, descriptor } = fetched
  if (content.kind === 'index')
    throw fault('MANIFEST_UNSUPPORTED', `${name} is an index of indexes: name one of its images by digest`)
  if (isNydusManifest(content)) throw alreadyNydus(name)
  content.layers.forEach((layer, i) => {
    checkLayer(layer, i, name)
  })
  const bytes = await client.fetchBlob(repository, content.config, MAX_INDEX_BYTES, { signal })
  const config = parseImageConfig(bytes, `config of ${name}`)
  if (config.diffIds.length !== content.layers.length) {
    throw fault(
      'MANIFEST_INVALID',
      `${name} has ${content.layers.length} layers, but its config lists ${config.diffIds.length}: push it again`,
    )
  }
  return { reference, digest: descriptor.digest, manifest: content, config }
}

function checkLayer(layer: Descriptor, index: number, name: string): void {
  if (layerCompression(layer.mediaType) !== undefined || RESTRICTED_LAYER.test(layer.mediaType)) return
  throw fault(
    'MANIFEST_UNSUPPORTED',
    `layer ${index + 1} of ${name} has the media type ${JSON.stringify(layer.mediaType)}, ` +
      'which is no tar archive: only plain container images can be converted',
  )
}

function alreadyNydus(name: string): Error {
  return fault(
    'MANIFEST_UNSUPPORTED',
    `${name} is a nydus image already: convert the plain image it was made from, or use it as it is`,
  )
}
