import { randomBytes } from 'node:crypto'
import { fault } from '../common/fault.js'
import { ANNOTATION } from '../oci/annotations.js'
import type { Descriptor } from '../oci/manifest.js'
import { MEDIA_TYPE } from '../oci/media-types.js'
import { type Labels, type Mount, type Snapshots, applyLayer } from './containerd.js'
import type { ContentStore } from './content-store.js'
import { type ImageNames, chainIds, snapshotLabels, uncompressedLabels } from './labels.js'
import type { LayerFetches } from './layer-fetches.js'
import { type Rpc, hasStatus } from './rpc.js'

/** A snapshot of the same name that appears and vanishes again is asked for this often. */
const PREPARE_TRIES = 3

export interface UnpackPlan {
  image: ImageNames
  /** Lowest first. */
  layers: readonly Descriptor[]
  diffIds: readonly string[]
}

/** True for a layer that only a remote snapshotter can serve: it is no tar. */
export function isNydusBlob(layer: Descriptor): boolean {
  return layer.mediaType === MEDIA_TYPE.nydusBlob || layer.annotations[ANNOTATION.nydusBlob] === 'true'
}

/**
 * Gives every layer its snapshot, lowest first. A layer that the snapshotter answers for itself is neither fetched nor
 * applied; from the first other one on, layers are fetched. (snapshotter.md 2.5)
 * @returns the indexes of the layers that needed no fetch
 * @throws CONTAINERD_ERROR, DIGEST_MISMATCH, MANIFEST_UNSUPPORTED, and what a fetch throws
 */
export async function unpackLayers(
  rpc: Rpc,
  store: ContentStore,
  snapshots: Snapshots,
  plan: UnpackPlan,
  fetches: LayerFetches,
  signal: AbortSignal,
): Promise<number[]> {
  const chain = chainIds(plan.diffIds)
  const unfetched: number[] = []
  for (const [i, layer] of plan.layers.entries()) {
    if (signal.aborted) throw fault('CANCELLED', 'cancelled')
    const chainId = chain[i] ?? ''
    const labels = snapshotLabels(plan.image, plan.layers, i, chainId)
    const active = await prepare(snapshots, chainId, chain[i - 1] ?? '', labels)
    if (!active) {
      unfetched.push(i)
      continue
    }
    try {
      if (isNydusBlob(layer)) throw needsNydus(layer, snapshots.snapshotter)
      fetches.startFrom(i)
      await fetches.wait(i)
      const applied = await applyLayer(rpc, layer, active.mounts)
      if (applied !== plan.diffIds[i]) throw wrongDiffId(layer, applied, plan.diffIds[i])
      await snapshots.commit(chainId, active.key, labels)
      await store.updateLabels(layer.digest, uncompressedLabels(applied))
    } catch (err) {
      // What cannot be removed now is collected with the lease that holds it.
      await snapshots.remove(active.key).catch(() => undefined)
      if (!hasStatus(err, 'ALREADY_EXISTS')) throw err
    }
  }
  return unfetched
}

/** A writable snapshot for the layer; undefined when the one named by `chainId` is there already. */
async function prepare(
  snapshots: Snapshots,
  chainId: string,
  parent: string,
  labels: Labels,
): Promise<{ key: string; mounts: Mount[] } | undefined> {
  for (let tries = 1; ; tries++) {
    const key = `extract-${randomBytes(8).toString('hex')} ${chainId}`
    try {
      return { key, mounts: await snapshots.prepare(key, parent, labels) }
    } catch (err) {
      if (!hasStatus(err, 'ALREADY_EXISTS')) throw err
      if (await snapshots.exists(chainId)) return undefined
      if (tries === PREPARE_TRIES) throw err
    }
  }
}

function needsNydus(layer: Descriptor, snapshotter: string): Error {
  return fault(
    'MANIFEST_UNSUPPORTED',
    `layer ${layer.digest} is a nydus data blob, which snapshotter ${JSON.stringify(snapshotter)} does not serve: pull with --snapshotter nydus, and see that it is containerd-nydus-grpc`,
  )
}

function wrongDiffId(layer: Descriptor, applied: string, expected: string | undefined): Error {
  return fault(
    'DIGEST_MISMATCH',
    `layer ${layer.digest} unpacks to ${applied}, but the image's config says ${expected ?? 'nothing'}: push the image again`,
  )
}
