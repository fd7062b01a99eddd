/**
 * What is left of a layer when it has been built and its data blob is stored: enough to merge it into an image. It lets an
 * interrupted conversion go on, and later conversions of other images take the layer over.
 */
import { MemorySource } from '../../common/byte-source.js'
import { sha256 } from '../../common/digest.js'
import { fault } from '../../common/fault.js'
import type { BlobPool } from '../../erofs/blob-pool.js'
import type { DirectoryInode, ImageInode, RafsImage } from '../../erofs/image-tree.js'
import { loadImage } from '../../erofs/load-image.js'
import { encodeImage } from '../../erofs/encode-image.js'
import type { BuiltLayer, LayerOptions } from '../build/build-layer.js'
import {
  BOOTSTRAP_FILE,
  bootstrapOf,
  metaFileName,
  packBootstrapLayer,
  unpackBootstrapLayer,
} from './bootstrap-layer.js'

/** A built layer, wherever its data is. */
export type MergeableLayer = Omit<BuiltLayer, 'path'>

const FACTS_FILE = 'image/layer.json'

/** What a bootstrap does not say. */
interface Facts {
  readonly digestHex: string
  readonly sizeBytes: number
  readonly droppedXattrs: number
  /** Paths of directories that the layer has, but does not describe, as base64 of their bytes. */
  readonly implicit: readonly string[]
}

/** Digest of what decides how a layer is built: other options give another blob. */
export function optionsDigest(options: LayerOptions, dictionary: { digest: string } | undefined): string {
  const { chunkSize, compressor, digester, version, batchSize } = options
  const facts = { chunkSize, compressor, digester, version, batchSize, dictionary: dictionary?.digest }
  return sha256(Buffer.from(JSON.stringify(facts)))
}

/** The image that a tree of layers built with these options makes. */
export function imageOf(
  root: DirectoryInode,
  { chunkSize, compressor, digester, version }: LayerOptions,
  prefetch: readonly ImageInode[] = [],
): Omit<RafsImage, 'blobs'> {
  return { version, chunkSize, compressor, digester, explicitOwners: true, root, prefetch }
}

/** An archive of the same form as a bootstrap layer. */
export async function encodeLayerRecord(layer: MergeableLayer, options: LayerOptions): Promise<Buffer> {
  const { root, digestHex, sizeBytes, droppedXattrs, cacheMeta } = layer
  const implicit = implicitPaths(root).map(path => Buffer.from(path, 'latin1').toString('base64'))
  const facts: Facts = { digestHex, sizeBytes, droppedXattrs, implicit }
  const files = new Map([
    [BOOTSTRAP_FILE, encodeImage(imageOf(root, options)).bytes],
    [FACTS_FILE, Buffer.from(JSON.stringify(facts))],
  ])
  if (cacheMeta) files.set(metaFileName(digestHex), cacheMeta)
  return (await packBootstrapLayer(files)).bytes
}

/**
 * @param pool - of the conversion: what several layers refer to is one blob
 * @throws IMAGE_INVALID, TAR_INVALID, RAFS_* for what is no whole record
 */
export async function parseLayerRecord(bytes: Uint8Array, pool: BlobPool): Promise<MergeableLayer> {
  const files = await unpackBootstrapLayer(bytes)
  const { digestHex, sizeBytes, droppedXattrs, implicit } = parseFacts(files.get(FACTS_FILE))
  const { root, blobs } = loadImage(new MemorySource(bootstrapOf(files)), { pool })
  for (const path of implicit) markImplicit(root, Buffer.from(path, 'base64').toString('latin1'))
  return {
    digestHex,
    sizeBytes,
    droppedXattrs,
    root,
    blob: blobs.find(({ id }) => id === digestHex),
    cacheMeta: files.get(metaFileName(digestHex)),
  }
}

function parseFacts(bytes: Buffer | undefined): Facts {
  try {
    const { digestHex, sizeBytes, droppedXattrs, implicit } = JSON.parse(String(bytes)) as Facts
    const isFacts =
      /^[0-9a-f]{64}$/.test(digestHex) && Number.isSafeInteger(sizeBytes) && Array.isArray(implicit)
    if (isFacts) return { digestHex, sizeBytes, droppedXattrs: Number(droppedXattrs), implicit }
  } catch {
    // Told below.
  }
  throw fault('IMAGE_INVALID', 'a record of a converted layer is damaged: remove it')
}

function implicitPaths(root: DirectoryInode): string[] {
  const found: string[] = []
  const open: [string, DirectoryInode][] = [['', root]]
  for (let next = open.pop(); next; next = open.pop()) {
    const [path, directory] = next
    if (directory.implicit) found.push(path)
    for (const [name, child] of directory.children)
      if (child.type === 'directory') open.push([`${path}/${name}`, child])
  }
  return found.sort()
}

function markImplicit(root: DirectoryInode, path: string): void {
  let at: DirectoryInode = root
  for (const name of path.split('/').slice(1)) {
    const child = at.children.get(name)
    if (child?.type !== 'directory')
      throw fault(
        'IMAGE_INVALID',
        'a record of a converted layer names a directory that it has not: remove it',
      )
    at = child
  }
  at.implicit = true
}
