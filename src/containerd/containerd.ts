import type { Descriptor } from '../oci/manifest.js'
import { type Rpc, hasStatus } from './rpc.js'

export type Labels = Record<string, string>

/** The arguments of one mount(2), as a snapshotter returns them. */
export interface Mount {
  type: string
  source: string
  target: string
  options: string[]
}

/** A record or a label changes at once; a snapshotter may ask a registry or start a daemon; a layer is unpacked. */
const RECORD_TIMEOUT_MS = 60_000
const SNAPSHOT_TIMEOUT_MS = 5 * 60_000
const UNPACK_TIMEOUT_MS = 60 * 60_000

/** A lease that nobody ended is containerd's to collect after a day, as with containerd's own tools. */
const LEASE_LIFETIME_MS = 24 * 3600 * 1000

/** Starts a lease and binds the connection to it: nothing made from now on is collected before {@link deleteLease}. */
export async function createLease(rpc: Rpc): Promise<string> {
  const expiry = new Date(Date.now() + LEASE_LIFETIME_MS).toISOString()
  const { lease } = await rpc.unary<{ lease: { id: string } }>(
    'Leases',
    'Create',
    { labels: { 'containerd.io/gc.expire': expiry } },
    RECORD_TIMEOUT_MS,
  )
  rpc.setLease(lease.id)
  return lease.id
}

/** Ends a lease; with `sync` after containerd has collected what it alone held. */
export async function deleteLease(rpc: Rpc, id: string, sync: boolean): Promise<void> {
  rpc.setLease(undefined)
  await rpc.unary('Leases', 'Delete', { id, sync }, SNAPSHOT_TIMEOUT_MS)
}

/** Makes the name point to `target`, whether it existed or not; the labels replace those it had. */
export async function putImage(rpc: Rpc, name: string, target: Descriptor, labels: Labels): Promise<void> {
  const image = { name, target, labels }
  try {
    await rpc.unary('Images', 'Create', { image }, RECORD_TIMEOUT_MS)
  } catch (err) {
    if (!hasStatus(err, 'ALREADY_EXISTS')) throw err
    const updateMask = { paths: ['target', 'labels'] }
    await rpc.unary('Images', 'Update', { image, updateMask }, RECORD_TIMEOUT_MS)
  }
}

/** Unpacks a layer of the content store onto `mounts`; answers the digest of the uncompressed layer. */
export async function applyLayer(rpc: Rpc, layer: Descriptor, mounts: Mount[]): Promise<string> {
  const request = { diff: layer, mounts }
  const { applied } = await rpc.unary<{ applied: Descriptor }>('Diff', 'Apply', request, UNPACK_TIMEOUT_MS)
  return applied.digest
}

/** The snapshots of one snapshotter, as containerd shows them in a namespace. */
export class Snapshots {
  readonly snapshotter: string
  readonly #rpc: Rpc

  constructor(rpc: Rpc, snapshotter: string) {
    this.#rpc = rpc
    this.snapshotter = snapshotter
  }

  async prepare(key: string, parent: string, labels: Labels): Promise<Mount[]> {
    const { mounts } = await this.#call<{ mounts: Mount[] }>('Prepare', { key, parent, labels })
    return mounts
  }

  async commit(name: string, key: string, labels: Labels): Promise<void> {
    await this.#call('Commit', { name, key, labels })
  }

  async remove(key: string): Promise<void> {
    await this.#call('Remove', { key })
  }

  /** Whether a snapshot of this name or key is there. */
  async exists(key: string): Promise<boolean> {
    try {
      await this.#call('Stat', { key })
      return true
    } catch (err) {
      if (hasStatus(err, 'NOT_FOUND')) return false
      throw err
    }
  }

  #call<Response>(method: string, request: object): Promise<Response> {
    return this.#rpc.unary(
      'Snapshots',
      method,
      { snapshotter: this.snapshotter, ...request },
      SNAPSHOT_TIMEOUT_MS,
    )
  }
}
