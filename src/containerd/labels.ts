import { createHash } from 'node:crypto'
import type { Descriptor } from '../oci/manifest.js'
import type { Labels } from './containerd.js'

/** containerd refuses a label whose key and value are longer together. */
const MAX_LABEL_BYTES = 4096

const SNAPSHOT_PREFIX = 'containerd.io/snapshot/'
const GC_CONTENT = 'containerd.io/gc.ref.content'

/** What every layer of one image has in common. */
export interface ImageNames {
  reference: string
  manifestDigest: string
}

/** The chain id of each layer: what its snapshot, with all below it, is called. */
export function chainIds(diffIds: readonly string[]): string[] {
  const chain: string[] = []
  for (const diffId of diffIds) {
    const parent = chain.at(-1)
    chain.push(parent === undefined ? diffId : sha256(`${parent} ${diffId}`))
  }
  return chain
}

/**
 * Labels of Prepare and Commit for layer `index`: the chain id that it will have, the names by which a remote
 * snapshotter finds it in the registry, and the layer's own annotations for snapshotters.
 */
export function snapshotLabels(
  image: ImageNames,
  layers: readonly Descriptor[],
  index: number,
  chainId: string,
): Labels {
  const layer = layers[index]
  const labels: Labels = {}
  for (const [key, value] of Object.entries(layer?.annotations ?? {})) {
    if (key.startsWith(SNAPSHOT_PREFIX)) labels[key] = value
  }
  labels['containerd.io/snapshot.ref'] = chainId
  labels[`${SNAPSHOT_PREFIX}cri.image-ref`] = image.reference
  labels[`${SNAPSHOT_PREFIX}cri.manifest-digest`] = image.manifestDigest
  if (layer) labels[`${SNAPSHOT_PREFIX}cri.layer-digest`] = layer.digest
  const key = `${SNAPSHOT_PREFIX}cri.image-layers`
  labels[key] = joinFitting(
    key,
    layers.slice(index).map(one => one.digest),
  )
  return labels
}

/** Labels by which containerd's garbage collector goes from a manifest to its config and layers. */
export function manifestLabels(config: Descriptor, layers: readonly Descriptor[]): Labels {
  const labels: Labels = { [`${GC_CONTENT}.config`]: config.digest }
  layers.forEach((layer, i) => (labels[`${GC_CONTENT}.l.${i}`] = layer.digest))
  return labels
}

/** Labels by which it goes from an index to its manifests. */
export function indexLabels(manifests: readonly Descriptor[]): Labels {
  return Object.fromEntries(manifests.map((one, i) => [`${GC_CONTENT}.m.${i}`, one.digest]))
}

/** The label by which it goes from a config to the snapshots of its layers. */
export function configLabels(snapshotter: string, topChainId: string | undefined): Labels {
  return topChainId === undefined ? {} : { [`containerd.io/gc.ref.snapshot.${snapshotter}`]: topChainId }
}

/** Where an object came from: containerd asks there again when it needs it for a push or another platform. */
export function sourceLabels(host: string, repository: string): Labels {
  return { [`containerd.io/distribution.source.${host}`]: repository }
}

/** On an unpacked layer: its digest without compression. */
export function uncompressedLabels(diffId: string): Labels {
  return { 'containerd.io/uncompressed': diffId }
}

function joinFitting(key: string, values: readonly string[]): string {
  let joined = ''
  for (const value of values) {
    const longer = joined === '' ? value : `${joined},${value}`
    if (!fits(key, longer)) break
    joined = longer
  }
  return joined
}

function fits(key: string, value: string): boolean {
  return Buffer.byteLength(key) + Buffer.byteLength(value) <= MAX_LABEL_BYTES
}

function sha256(text: string): string {
  return `sha256:${createHash('sha256').update(text).digest('hex')}`
}
