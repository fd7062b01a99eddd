import { fault } from '../../common/fault.js'
import { type ImageSource, readBlob } from '../../oci/image-store.js'
import {
  type Descriptor,
  type ImageConfig,
  type Index,
  type Manifest,
  MAX_INDEX_BYTES,
  isNydusManifest,
  parseImageConfig,
} from '../../oci/manifest.js'
import { layerCompression } from '../../oci/media-types.js'
import { type WantedPlatform, isNydusEntry, selectManifest } from '../../oci/platform.js'
import type { FetchedManifest } from '../../oci/registry-client.js'

/** A plain image that can be converted. */
export interface SourceImage {
  readonly source: ImageSource
  /** Of the manifest; with its platform where an index tells it. */
  readonly descriptor: Descriptor
  /** The manifest as stored. */
  readonly bytes: Uint8Array
  readonly manifest: Manifest
  readonly config: ImageConfig
}

/** Which images of an index are meant. An image that is in no index is meant whatever this says. */
export type Platforms = readonly WantedPlatform[] | 'all'

/** Layers that only their first publisher may distribute, but which are tar archives like others. */
const RESTRICTED_LAYER =
  /^application\/vnd\.(?:oci\.image\.layer\.nondistributable\.v1\.tar|docker\.image\.rootfs\.foreign\.diff\.tar)/

/**
 * The images of a source for the platforms, each checked to be one to convert. With `all`, images of other systems than
 * Linux and what is no image (attestations) are passed over.
 * @throws MANIFEST_UNSUPPORTED for a nydus image and for layers that are no archives, MANIFEST_INVALID, REGISTRY_*
 */
export async function fetchSourceImages(
  source: ImageSource,
  platforms: Platforms,
  signal: AbortSignal,
): Promise<SourceImage[]> {
  const root = await source.resolve({ signal })
  if (root.content.kind === 'manifest') return [await checkedImage(source, root, root.descriptor, signal)]
  const entries = selectEntries(root.content, 'plain', platforms, source.name)
  const images: SourceImage[] = []
  for (const entry of entries) {
    if (isNydusEntry(entry)) throw alreadyNydus(source.name)
    images.push(await checkedImage(source, await source.fetchManifest(entry, { signal }), entry, signal))
  }
  return images
}

/** The entries of an index for the platforms, each once; of the other kind where there is none. @throws REGISTRY_NOT_FOUND */
export function selectEntries(
  index: Index,
  prefer: 'nydus' | 'plain',
  platforms: Platforms,
  name: string,
): Descriptor[] {
  if (platforms !== 'all')
    return [...new Set(platforms.map(platform => selectManifest(index, prefer, platform)))]
  const all = index.manifests.filter(entry => entry.platform?.os === 'linux')
  const preferred = all.filter(entry => isNydusEntry(entry) === (prefer === 'nydus'))
  if (preferred.length > 0) return preferred
  // Only where both kinds stand in an index are they told apart by their entries.
  if (all.length > 0) return all
  throw fault('REGISTRY_NOT_FOUND', `${name} has no image for Linux: name another image`)
}

/** The manifest that an entry of an index stands for. @throws MANIFEST_UNSUPPORTED when it is an index as well */
export function requireManifest({ content }: FetchedManifest, name: string): Manifest {
  if (content.kind === 'manifest') return content
  throw fault('MANIFEST_UNSUPPORTED', `${name} is an index of indexes: name one of its images by digest`)
}

async function checkedImage(
  source: ImageSource,
  fetched: FetchedManifest,
  { platform }: Descriptor,
  signal: AbortSignal,
): Promise<SourceImage> {
  const { name } = source
  const { bytes, descriptor } = fetched
  const manifest = requireManifest(fetched, name)
  if (isNydusManifest(manifest)) throw alreadyNydus(name)
  manifest.layers.forEach((layer, i) => {
    checkLayer(layer, i, name)
  })
  const config = await fetchImageConfig(source, manifest, signal)
  return {
    source,
    descriptor: { ...descriptor, ...(platform ? { platform } : {}) },
    bytes,
    manifest,
    config,
  }
}

/** The config of an image, which must list as many layers as the manifest. @throws MANIFEST_INVALID */
export async function fetchImageConfig(
  source: ImageSource,
  manifest: Manifest,
  signal: AbortSignal,
): Promise<ImageConfig> {
  const bytes = await readBlob(source, manifest.config, MAX_INDEX_BYTES, { signal })
  const config = parseImageConfig(bytes, `config of ${source.name}`)
  const [layers, diffIds] = [manifest.layers.length, config.diffIds.length]
  if (layers === diffIds) return config
  throw fault(
    'MANIFEST_INVALID',
    `${source.name} has ${layers} layers, but its config lists ${diffIds}: push it again`,
  )
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
