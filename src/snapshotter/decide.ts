/**
 * What kind of thing a snapshot is about to be: the decision tables of the remote-snapshot protocol. The first row that
 * matches wins, and its name goes into the log, so that an operator sees why a layer was downloaded or was not.
 */
import { fault } from '../common/fault.js'
import { LABELS } from './labels.js'
import type { Labels } from './snapshots.js'
import type { SnapshotRecord } from './record.js'

/** An image layer: shall the client fetch and unpack it? */
export type LayerDecision = { readonly row: 'bootstrap' | 'plain-layer' } | SkippedLayer

/** Nobody unpacks this one: it is committed as `target` at once. */
export interface SkippedLayer {
  readonly row: 'data-blob'
  readonly target: string
}

/** What a container, a view or a later layer stands on. */
export type BaseDecision =
  { readonly row: 'native' } | { readonly row: 'image'; readonly bootstrap: SnapshotRecord }

/** For a Prepare that names its target. */
export function decideLayer(labels: Labels, target: string): LayerDecision {
  if (LABELS.bootstrap in labels) return { row: 'bootstrap' }
  if (LABELS.blob in labels) return { row: 'data-blob', target }
  return { row: 'plain-layer' }
}

/**
 * For mounting a snapshot with these labels on these ancestors, nearest first.
 * @throws SNAPSHOT_STATE only data blobs are below, so that there is nothing to see
 */
export function decideBase(labels: Labels, ancestors: readonly SnapshotRecord[]): BaseDecision {
  // A layer that is being unpacked is written over the layers below it, whatever those are.
  if (LABELS.ref in labels || LABELS.bootstrap in labels) return { row: 'native' }
  const bootstrap = ancestors.find(record => LABELS.bootstrap in record.labels)
  if (bootstrap) return { row: 'image', bootstrap }
  if (ancestors[0] && LABELS.blob in ancestors[0].labels) {
    throw fault(
      'SNAPSHOT_STATE',
      `only can view nydus topmost layer: ${JSON.stringify(ancestors[0].name)} is a data blob without a bootstrap`,
    )
  }
  return { row: 'native' }
}
