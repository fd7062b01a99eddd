/**
 * Manifests, indexes and image configs (OCI image-spec 1.1 and Docker's schema 2): bytes in, checked values out.
 * What a registry sends is hostile until parsed here: sizes, counts, digests and types are bounded.
 */
import { isOciDigest } from '../common/digest.js'
import { fault, type Fault } from '../common/fault.js'
import { ANNOTATION } from './annotations.js'
import { isIndexType, isManifestType, MEDIA_TYPE } from './media-types.js'

export const MAX_MANIFEST_BYTES = 4 << 20
export const MAX_INDEX_BYTES = 8 << 20
/** Far above what any container runtime can stack. */
export const MAX_LAYERS = 1000
const MAX_INDEX_ENTRIES = 10_000

export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
  readonly osFeatures: readonly string[]
}

export interface Descriptor {
  readonly mediaType: string
  readonly digest: string
  /** Bytes. */
  readonly size: number
  readonly annotations: Readonly<Record<string, string>>
  readonly platform?: Platform
  readonly artifactType?: string
}

export interface Manifest {
  readonly kind: 'manifest'
  readonly mediaType: string
  readonly config: Descriptor
  /** Lowest layer first. */
  readonly layers: readonly Descriptor[]
  readonly annotations: Readonly<Record<string, string>>
  readonly subject?: Descriptor
}

export interface Index {
  readonly kind: 'index'
  readonly mediaType: string
  readonly manifests: readonly Descriptor[]
  readonly annotations: Readonly<Record<string, string>>
}

export interface ImageConfig {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
  /** Digests of the uncompressed layers, lowest first. */
  readonly diffIds: readonly string[]
  /** The whole document, for who rewrites it. */
  readonly document: Readonly<Record<string, unknown>>
}

/**
 * Parses what a registry served under `mediaType`. `source` names host and image in the error.
 * @throws MANIFEST_INVALID, MANIFEST_UNSUPPORTED for Docker's schema 1
 */
export function parseManifest(bytes: Uint8Array, mediaType: string, source: string): Manifest | Index {
  if (bytes.length > MAX_INDEX_BYTES || (isManifestType(mediaType) && bytes.length > MAX_MANIFEST_BYTES))
    throw invalid(source, mediaType, `is ${bytes.length} bytes long, more than any manifest may have`)
  const doc = new Doc(parseJson(bytes, mediaType, source), mediaType, source)
  const type = doc.optionalText('mediaType') ?? mediaType
  if (doc.value['schemaVersion'] === 1 || type.startsWith(MEDIA_TYPE.dockerSchema1.slice(0, -5))) {
    throw fault(
      'MANIFEST_UNSUPPORTED',
      `${source} is in Docker's schema 1, which has no layer sizes: push the image again with a current tool`,
    )
  }
  if (doc.value['schemaVersion'] !== 2) throw doc.invalid('has no schemaVersion 2')
  // One document must not be readable as both kinds (CVE-2021-41190).
  if (Array.isArray(doc.value['manifests']) && Array.isArray(doc.value['layers']))
    throw doc.invalid('has both layers and manifests')
  if (isIndexType(type)) return indexOf(doc, type)
  if (isManifestType(type)) {
    if (bytes.length > MAX_MANIFEST_BYTES) throw doc.invalid(`is ${bytes.length} bytes long, more than 4 MiB`)
    return manifestOf(doc, type)
  }
  throw fault(
    'MANIFEST_UNSUPPORTED',
    `${source} has the media type ${quote(type)}, which is no image manifest`,
  )
}

/** Parses an image config. @throws MANIFEST_INVALID */
export function parseImageConfig(bytes: Uint8Array, source: string): ImageConfig {
  const type = MEDIA_TYPE.ociConfig
  if (bytes.length > MAX_INDEX_BYTES) throw invalid(source, type, `is ${bytes.length} bytes long`)
  const doc = new Doc(parseJson(bytes, type, source), type, source)
  const rootfs = doc.value['rootfs']
  const diffIds = isObject(rootfs) ? rootfs['diff_ids'] : undefined
  if (!Array.isArray(diffIds) || diffIds.length > MAX_LAYERS)
    throw doc.invalid(`has no rootfs.diff_ids of at most ${MAX_LAYERS} entries`)
  if (!diffIds.every((id): id is string => typeof id === 'string' && isOciDigest(id)))
    throw doc.invalid('has a diff_id that is not a sha256 digest')
  const variant = doc.optionalText('variant')
  return {
    os: doc.optionalText('os') ?? '',
    architecture: doc.optionalText('architecture') ?? '',
    ...(variant === undefined ? {} : { variant }),
    diffIds,
    document: doc.value,
  }
}

/** True when the image is a nydus image: its last layer is a bootstrap. */
export function isNydusManifest(manifest: Manifest): boolean {
  return manifest.layers.at(-1)?.annotations[ANNOTATION.nydusBootstrap] === 'true'
}

function indexOf(doc: Doc, mediaType: string): Index {
  const list = doc.value['manifests']
  if (!Array.isArray(list)) throw doc.invalid('has no list of manifests')
  if (list.length > MAX_INDEX_ENTRIES)
    throw doc.invalid(`lists ${list.length} manifests, more than ${MAX_INDEX_ENTRIES}`)
  return {
    kind: 'index',
    mediaType,
    manifests: list.map((entry, i) => doc.descriptor(entry, `manifests[${i}]`)),
    annotations: doc.annotations(doc.value['annotations'], 'annotations'),
  }
}

function manifestOf(doc: Doc, mediaType: string): Manifest {
  const list = doc.value['layers']
  if (!Array.isArray(list)) throw doc.invalid('has no list of layers')
  if (list.length > MAX_LAYERS) throw doc.invalid(`has ${list.length} layers, more than ${MAX_LAYERS}`)
  const subject = doc.value['subject']
  return {
    kind: 'manifest',
    mediaType,
    config: doc.descriptor(doc.value['config'], 'config'),
    layers: list.map((entry, i) => doc.descriptor(entry, `layers[${i}]`)),
    annotations: doc.annotations(doc.value['annotations'], 'annotations'),
    ...(subject === undefined || subject === null ? {} : { subject: doc.descriptor(subject, 'subject') }),
  }
}

/** A JSON object that says where it came from when a field of it is wrong. */
class Doc {
  readonly value: Readonly<Record<string, unknown>>
  readonly #mediaType: string
  readonly #source: string

  constructor(value: unknown, mediaType: string, source: string) {
    this.#mediaType = mediaType
    this.#source = source
    if (!isObject(value)) throw this.invalid('is not a JSON object')
    this.value = value
  }

  invalid(why: string): Fault {
    return invalid(this.#source, this.#mediaType, why)
  }

  optionalText(key: string): string | undefined {
    const value = this.value[key]
    if (value === undefined || value === null || value === '') return undefined
    if (typeof value !== 'string') throw this.invalid(`has a ${key} that is not text`)
    return value
  }

  annotations(value: unknown, at: string): Record<string, string> {
    if (value === undefined || value === null) return {}
    if (!isObject(value)) throw this.invalid(`has ${at} that are not an object`)
    // Without a prototype: the keys are the registry's, and `__proto__` is as good a key as any.
    const out = Object.create(null) as Record<string, string>
    for (const [key, text] of Object.entries(value)) {
      if (typeof text !== 'string') throw this.invalid(`has ${at} with a value that is not text`)
      out[key] = text
    }
    return out
  }

  descriptor(value: unknown, at: string): Descriptor {
    if (!isObject(value)) throw this.invalid(`has no descriptor at ${at}`)
    const { mediaType, digest, size, artifactType } = value
    if (typeof mediaType !== 'string' || mediaType === '') throw this.invalid(`has no mediaType at ${at}`)
    if (typeof digest !== 'string' || !isOciDigest(digest))
      throw this.invalid(`has no sha256 digest at ${at}.digest`)
    if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0)
      throw this.invalid(`has no size in bytes at ${at}.size`)
    return {
      mediaType,
      digest,
      size,
      annotations: this.annotations(value['annotations'], `${at}.annotations`),
      ...(isObject(value['platform']) ? { platform: platformOf(value['platform']) } : {}),
      ...(typeof artifactType === 'string' && artifactType !== '' ? { artifactType } : {}),
    }
  }
}

function platformOf(value: Record<string, unknown>): Platform {
  const text = (key: string): string => (typeof value[key] === 'string' ? value[key] : '')
  const features = value['os.features']
  return {
    os: text('os'),
    architecture: text('architecture'),
    ...(text('variant') === '' ? {} : { variant: text('variant') }),
    osFeatures: Array.isArray(features) ? features.filter(f => typeof f === 'string') : [],
  }
}

function parseJson(bytes: Uint8Array, mediaType: string, source: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as unknown
  } catch (err) {
    throw invalid(source, mediaType, 'is not complete JSON', err)
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(source: string, mediaType: string, why: string, cause?: unknown): Fault {
  return fault('MANIFEST_INVALID', `${source} (${mediaType}) ${why}: push the image again or ask its owner`, {
    cause,
    context: { source, mediaType },
  })
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 100))
}
