/** Which manifest of an index suits this node. */
import { fault } from '../common/fault.js'
import type { Descriptor, Index, Platform } from './manifest.js'
import { isIndexType, MEDIA_TYPE } from './media-types.js'

export interface WantedPlatform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
}

/** Older converters mark the nydus manifest of an index with this `os.features` word (rafs.md 5.1). */
export const NYDUS_FEATURE = 'nydus.remoteimage.v1'

const ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: 'amd64',
  ia32: '386',
  ppc64: 'ppc64le',
  mipsel: 'mipsle',
  mips64el: 'mips64le',
}

/** `linux` on this machine's architecture, in the words that images use. */
export function hostPlatform(): WantedPlatform {
  const architecture = ARCHITECTURES[process.arch] ?? process.arch
  return { os: 'linux', architecture }
}

/** True for an index entry that is the nydus twin of a plain image. */
export function isNydusEntry(entry: Descriptor): boolean {
  return (
    entry.artifactType === MEDIA_TYPE.nydusManifest ||
    entry.platform?.osFeatures.includes(NYDUS_FEATURE) === true
  )
}

/**
 * The entry of `index` for a platform. An index may hold a plain and a nydus manifest for the same platform: `prefer`
 * says which; the other one is taken where the preferred one is missing.
 * @throws REGISTRY_NOT_FOUND listing the platforms that exist
 */
export function selectManifest(
  index: Index,
  prefer: 'nydus' | 'plain',
  wanted: WantedPlatform = hostPlatform(),
): Descriptor {
  const fitting = index.manifests.filter(
    entry => !isIndexType(entry.mediaType) && entry.platform !== undefined && fits(entry.platform, wanted),
  )
  const preferred = fitting.filter(entry => isNydusEntry(entry) === (prefer === 'nydus'))
  const candidates = preferred.length > 0 ? preferred : fitting
  const exact = candidates.find(entry => sameVariant(entry.platform?.variant, wanted))
  const chosen = exact ?? candidates[0]
  if (chosen !== undefined) return chosen
  const known = [...new Set(index.manifests.map(entry => platformText(entry.platform)))]
    .slice(0, 20)
    .join(', ')
  throw fault(
    'REGISTRY_NOT_FOUND',
    `the image has no manifest for ${platformText(wanted)}, only for ${known || 'nothing'}: choose another platform`,
  )
}

/**
 * All entries of `index` for a platform: the plain image, and its nydus twin where there is one.
 * @throws REGISTRY_NOT_FOUND listing the platforms that exist
 */
export function selectManifests(index: Index, wanted: WantedPlatform): Descriptor[] {
  return [...new Set([selectManifest(index, 'plain', wanted), selectManifest(index, 'nydus', wanted)])]
}

function fits(platform: Platform, wanted: WantedPlatform): boolean {
  if (platform.os !== wanted.os || platform.architecture !== wanted.architecture) return false
  return wanted.variant === undefined || sameVariant(platform.variant, wanted)
}

/** `arm64` without a variant is v8, `arm` without one v7. */
function sameVariant(variant: string | undefined, wanted: WantedPlatform): boolean {
  const implied = wanted.architecture === 'arm64' ? 'v8' : wanted.architecture === 'arm' ? 'v7' : ''
  return (variant ?? implied) === (wanted.variant ?? implied)
}

function platformText(platform: { os: string; architecture: string; variant?: string } | undefined): string {
  if (platform === undefined) return 'no platform'
  return [platform.os, platform.architecture, platform.variant].filter(part => part !== undefined).join('/')
}
