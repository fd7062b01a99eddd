/**
 * What a snapshotter is, in prose: the contract between the gRPC service and whoever keeps the snapshots.
 *
 * A snapshot is a directory tree in one of three states. *Active* and *view* snapshots are named by a key and can be
 * mounted, for writing and for reading; a *committed* one is named by its name, is immutable, cannot be mounted, and is
 * what others stand on as their parent. Keys and names share one space and are opaque text.
 *
 * Every call that changes something answers only after the change is on the disk, and a call that fails leaves nothing
 * behind. Calls may come at once and in any order; reading calls never wait for writing ones.
 */

export const KIND_NAMES = ['view', 'active', 'committed'] as const
export type Kind = (typeof KIND_NAMES)[number]

/** Nanoseconds since the epoch: containerd compares what it gets with clocks of that precision. */
export type Nanoseconds = bigint

export type Labels = Readonly<Record<string, string>>

export interface Info {
  readonly name: string
  /** Name of the committed snapshot below, '' for none. */
  readonly parent: string
  readonly kind: Kind
  readonly createdNs: Nanoseconds
  readonly updatedNs: Nanoseconds
  readonly labels: Labels
}

/** One mount(2) for the client to do. Sources and option paths are absolute. */
export interface Mount {
  readonly type: string
  readonly source: string
  readonly options: readonly string[]
}

/** Disk space of one snapshot without its parents, by allocated blocks; a hard-linked file counts once. */
export interface Usage {
  readonly sizeBytes: number
  readonly inodes: number
}

export interface CreateRequest {
  readonly key: string
  /** Name of a committed snapshot, or '' for an empty one. */
  readonly parent: string
  readonly labels: Labels
}

export interface CommitRequest {
  readonly name: string
  readonly key: string
  /** Replaces the labels of the active snapshot; nothing is inherited. */
  readonly labels: Labels
  /** '' or the parent; gives a parent to a snapshot that was prepared without one. */
  readonly parent: string
}

export interface UpdateRequest {
  readonly name: string
  readonly labels: Labels
  /** Field paths to change: `labels` or `labels.<key>`; empty replaces all labels. */
  readonly paths: readonly string[]
}

export interface Snapshots {
  /**
   * Makes an active snapshot and tells how to mount it.
   *
   * With the label `containerd.io/snapshot.ref` the client is about to fill it with an image layer. Where that layer
   * needs no filling, because its data is read lazily, it is committed under the label's value at once and the call
   * *fails* with SNAPSHOT_EXISTS: protocol, not failure. Without the label it is the writable layer of a container; on
   * top of a lazily read image that image is mounted first, once for all its containers.
   *
   * A second call with the same key fails.
   * @throws SNAPSHOT_EXISTS the key is taken, by a snapshot of any kind
   * @throws SNAPSHOT_NOT_FOUND there is no such parent
   * @throws SNAPSHOT_INVALID the parent is not committed
   * @throws SNAPSHOT_LABELS the image must be mounted and its reference is not known; what the mounting throws
   */
  prepare(request: CreateRequest): Promise<Mount[]>

  /** As `prepare`, for reading only; the parent may be '' here too. */
  view(request: CreateRequest): Promise<Mount[]>

  /**
   * The mounts that `prepare` or `view` answered; an image that is not mounted (any more) is mounted again.
   * @throws SNAPSHOT_NOT_FOUND, SNAPSHOT_STATE the snapshot is committed; what the mounting throws
   */
  mounts(key: string): Promise<Mount[]>

  /**
   * Makes an active snapshot immutable under a name; its key is free again. Both times become now.
   * @throws SNAPSHOT_EXISTS the name is taken
   * @throws SNAPSHOT_NOT_FOUND there is no such key, or no such parent
   * @throws SNAPSHOT_STATE the key is no active snapshot, or the parent is not committed
   * @throws SNAPSHOT_INVALID the parent is not the one it was prepared with
   * @throws RAFS_* the layer is labelled a bootstrap and holds none
   */
  commit(request: CommitRequest): Promise<void>

  /**
   * Forgets a snapshot of any kind; its directory goes, and with a bootstrap's the mount of its image.
   * @throws SNAPSHOT_NOT_FOUND, SNAPSHOT_STATE others stand on it
   */
  remove(key: string): Promise<void>

  /** @throws SNAPSHOT_NOT_FOUND */
  stat(key: string): Info

  /**
   * Changes labels; a label of the mask that the request lacks is deleted. Answers what is stored then.
   * @throws SNAPSHOT_NOT_FOUND, SNAPSHOT_INVALID a path names something that cannot be changed, and nothing is
   */
  update(request: UpdateRequest): Promise<Info>

  /**
   * The snapshots that match one of the filters (all when there is none), as they were when the call came.
   * @throws SNAPSHOT_INVALID a filter that cannot be parsed
   */
  list(filters: readonly string[]): Info[]

  /** @throws SNAPSHOT_NOT_FOUND */
  usage(key: string): Promise<Usage>

  /** Deletes the directories of no snapshot. What cannot be deleted is logged and left for the next call. */
  cleanup(): Promise<void>

  /** Ends what runs in the background; a second call does nothing. */
  close(): Promise<void>
}
