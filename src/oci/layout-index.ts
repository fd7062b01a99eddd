/** `index.json` of an OCI layout (image-spec 1.1, "Image Layout"): which manifests it holds, under which names. */
import { fault } from '../common/fault.js'
import { type Descriptor, type Index, parseManifest } from './manifest.js'
import { MEDIA_TYPE } from './media-types.js'
import { type Reference, formatReference } from './reference.js'

export const LAYOUT_FILE = 'oci-layout'
export const INDEX_FILE = 'index.json'
export const LAYOUT_VERSION = Buffer.from(JSON.stringify({ imageLayoutVersion: '1.0.0' }))

/** The tag, or whatever name the writer chose. */
const REF_NAME = 'org.opencontainers.image.ref.name'
/** The full reference, as containerd and docker write it beside. */
const IMAGE_NAME = 'io.containerd.image.name'

/** @throws MANIFEST_INVALID */
export function parseLayoutIndex(bytes: Uint8Array, name: string): Index {
  const index = parseManifest(bytes, MEDIA_TYPE.ociIndex, `index.json of ${name}`)
  if (index.kind === 'index') return index
  throw fault('MANIFEST_INVALID', `index.json of ${name} is no index: make the layout again`)
}

/**
 * The entry that a reference names: by digest, by full name, by tag; or the only one, when that has no name. Without a
 * reference the only one.
 * @throws REGISTRY_NOT_FOUND listing the names that exist
 */
export function selectLayoutEntry(
  { manifests }: Index,
  reference: Reference | undefined,
  name: string,
): Descriptor {
  const [sole, ...more] = manifests
  if (!reference && sole && more.length === 0) return sole
  const { tag, digest } = reference ?? {}
  const full = reference ? formatReference(reference) : 'without a name'
  const find = (fits: (entry: Descriptor) => boolean): Descriptor | undefined => manifests.find(fits)
  const only = manifests.length === 1 && namesOf(manifests[0]).length === 0 ? manifests[0] : undefined
  const entry =
    digest === undefined
      ? (find(one => namesOf(one).includes(full)) ?? find(one => one.annotations[REF_NAME] === tag) ?? only)
      : find(one => one.digest === digest)
  if (entry) return entry
  const known = manifests.slice(0, 20).map(one => namesOf(one).at(-1) ?? one.digest)
  throw fault(
    'REGISTRY_NOT_FOUND',
    `${name} holds no image ${digest ?? tag ?? full}, only ${known.join(', ') || 'nothing'}: name one of these`,
  )
}

/** index.json with one more entry, which takes the reference's name from any other. */
export function addLayoutEntry(
  bytes: Uint8Array | undefined,
  { mediaType, digest, size }: Descriptor,
  reference: Reference,
): Buffer {
  const document = (bytes ? JSON.parse(Buffer.from(bytes).toString('utf8')) : {}) as {
    manifests?: Partial<Descriptor>[]
  }
  const tag = reference.tag ?? 'latest'
  const annotations = { [IMAGE_NAME]: formatReference(reference), [REF_NAME]: tag }
  const others = (document.manifests ?? []).filter(entry => entry.annotations?.[REF_NAME] !== tag)
  return Buffer.from(
    JSON.stringify({
      ...document,
      schemaVersion: 2,
      mediaType: MEDIA_TYPE.ociIndex,
      manifests: [...others, { mediaType, digest, size, annotations }],
    }),
  )
}

function namesOf(entry: Descriptor | undefined): string[] {
  const names = [entry?.annotations[REF_NAME], entry?.annotations[IMAGE_NAME]]
  return names.filter(name => name !== undefined)
}
