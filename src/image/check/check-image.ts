/** Is an image what its manifest says, and the same as the one it was made from? (nydusd.md 9.9) */
import { isDeepStrictEqual } from 'node:util'
import { MemorySource } from '../../common/byte-source.js'
import { fault } from '../../common/fault.js'
import { ANNOTATION } from '../../oci/annotations.js'
import type { ImageSource } from '../../oci/image-store.js'
import { type Descriptor, type ImageConfig, type Manifest, isNydusManifest } from '../../oci/manifest.js'
import { MEDIA_TYPE } from '../../oci/media-types.js'
import { type WantedPlatform, selectManifests } from '../../oci/platform.js'
import { type NydusImage, blobsOf, fetchNydusImage } from '../convert/nydus-image.js'
import { fetchImageConfig, requireManifest } from '../convert/source-image.js'
import { checkBootstrap } from '../read/check.js'
import type { BlobPlace } from '../read/chunk-reader.js'
import { walkTree } from '../read/walk-tree.js'
import { compareTrees } from './compare-trees.js'
import { type HashedTree, nydusTree, plainTree } from './image-tree.js'

/** What a reference names for one platform. */
export interface ImagePair {
  readonly source: ImageSource
  readonly plain?: PlainImage
  readonly nydus?: NydusImage & { readonly bytes: Uint8Array }
  /** Where the data of the nydus image is, unless it is in its layers. */
  readonly data?: BlobPlace
}

export interface PlainImage {
  readonly manifest: Manifest
  readonly config: ImageConfig
  /** The manifest as stored. */
  readonly bytes: Uint8Array
}

/** Differences that are told one by one. */
const MAX_TOLD = 100

/**
 * Fetches the plain image, the nydus image or both, with their metadata.
 * @throws MANIFEST_*, IMAGE_INVALID, TAR_INVALID, RAFS_*, faults of the store
 */
export async function fetchImagePair(
  source: ImageSource,
  platform: WantedPlatform,
  signal: AbortSignal,
): Promise<ImagePair> {
  const root = await source.resolve({ signal })
  const entries: Descriptor[] =
    root.content.kind === 'manifest' ? [root.descriptor] : selectManifests(root.content, platform)
  let pair: ImagePair = { source }
  for (const entry of entries) {
    const fetched = root.content.kind === 'manifest' ? root : await source.fetchManifest(entry, { signal })
    const { bytes } = fetched
    const manifest = requireManifest(fetched, source.name)
    if (isNydusManifest(manifest))
      pair = { ...pair, nydus: { ...(await fetchNydusImage(source, manifest, signal)), bytes } }
    else {
      const config = await fetchImageConfig(source, manifest, signal)
      pair = { ...pair, plain: { manifest, config, bytes } }
    }
  }
  return pair
}

/** The rules of manifests, and what the bootstrap says of itself. @throws IMAGE_INVALID, RAFS_* */
export function checkManifests({ source, plain, nydus }: ImagePair): void {
  if (!plain && !nydus) throw fault('IMAGE_INVALID', `${source.name} holds no image that could be checked`)
  if (plain && nydus && !sameRuntimeConfig(plain.config, nydus.config))
    throw fault(
      'IMAGE_INVALID',
      `${source.name}: the plain and the nydus image run differently (config): convert the image anew`,
    )
  if (!nydus) return
  const { manifest, bootstrap, image } = nydus
  const data = manifest.layers.slice(0, -1)
  for (const [index, { mediaType, annotations }] of data.entries()) {
    const isData = mediaType === MEDIA_TYPE.nydusBlob && annotations[ANNOTATION.nydusBlob] === 'true'
    if (!isData && annotations[ANNOTATION.nydusRef] === undefined)
      throw fault(
        'IMAGE_INVALID',
        `${source.name}: layer ${index + 1} of the manifest is no nydus data layer: convert the image anew`,
      )
  }
  checkBootstrap(new MemorySource(bootstrap))
  const version = manifest.layers.at(-1)?.annotations[ANNOTATION.nydusFsVersion]
  if (version !== undefined && version !== String(image.version))
    throw fault(
      'IMAGE_INVALID',
      `${source.name} claims RAFS v${version}, but its bootstrap is v${image.version}`,
    )
  // An image whose data is in a storage backend has no data layers.
  if (data.length === 0) return
  const known = new Set(
    data.flatMap(({ digest, annotations }) => [digest, annotations[ANNOTATION.nydusRef] ?? digest]),
  )
  const strange = image.blobs.find(({ id }) => !known.has(`sha256:${id}`))
  if (strange)
    throw fault(
      'IMAGE_INVALID',
      `${source.name}: the bootstrap refers to the blob ${strange.id}, which is no layer of the manifest`,
    )
}

/**
 * Compares every file of two images and how they are run.
 * @param tell - hears each difference
 * @throws IMAGE_DIFFERS, and faults of what could not be read
 */
export async function compareImages(
  source: ImagePair,
  target: ImagePair,
  tell: (difference: string) => void,
  signal: AbortSignal,
): Promise<{ readonly files: number; readonly names: number }> {
  let differences = 0
  const differ = (sentence: string): void => {
    if (++differences <= MAX_TOLD) tell(sentence)
  }
  const [a, b] = [source.plain ?? source.nydus, target.nydus ?? target.plain]
  if (a && b && !sameRuntimeConfig(a.config, b.config)) differ('config: the images run differently')
  const [left, right] = [await treeOf(source, 'plain', signal), await treeOf(target, 'nydus', signal)]
  for (const { path, what } of compareTrees(left, right)) differ(`${path} ${what}`)
  if (differences > 0)
    throw fault(
      'IMAGE_DIFFERS',
      `${target.source.name} differs from ${source.source.name} in ${differences} things: convert it anew`,
    )
  return { files: right.contents.size, names: countNames(right) }
}

function treeOf(pair: ImagePair, prefer: 'plain' | 'nydus', signal: AbortSignal): Promise<HashedTree> {
  const { source, plain, nydus, data } = pair
  if (nydus && (prefer === 'nydus' || !plain)) return nydusTree(nydus, data ?? blobsOf(nydus), signal)
  if (plain) return plainTree(source, plain.manifest, signal)
  throw fault('IMAGE_INVALID', `${source.name} holds no image that could be compared`)
}

/** docker's `ArgsEscaped` means nothing on Linux and comes and goes. */
function sameRuntimeConfig(a: ImageConfig, b: ImageConfig): boolean {
  const runtime = ({ document }: ImageConfig): unknown => {
    const config = document['config']
    if (typeof config !== 'object' || config === null) return {}
    const { ArgsEscaped: _, ...rest } = config as Record<string, unknown>
    return rest
  }
  return isDeepStrictEqual(runtime(a), runtime(b))
}

function countNames({ root }: HashedTree): number {
  let names = 0
  for (const { path } of walkTree(root)) if (path !== '') names++
  return names
}
