/**
 * The supervisor as the snapshotter sees it: images are mounted, shared by all their containers, and unmounted; what
 * daemon, driver and descriptors stand behind that is not the snapshotter's business.
 */

/** What to mount. */
export interface ImageSpec {
  /** Stable across restarts: the snapshot id of the layer that holds the bootstrap. */
  readonly id: string
  /** Full image reference, e.g. `127.0.0.1:5000/app:nydus`. */
  readonly imageRef: string
  /** Absolute path of the merged bootstrap. */
  readonly bootstrapPath: string
  /** The image's own directory to mount on; created when missing. */
  readonly mountpoint: string
  readonly labels: Readonly<Record<string, string>>
}

/** Where stored bytes of an image come from: upstream's backend type word and config keys (nydusd.md 2.2). */
export interface BackendConfig {
  readonly type: string
  readonly config: Record<string, unknown>
}

/** Asked at every bind, also after a daemon restart, so that credentials are never stored. */
export type BackendConfigSource = (spec: ImageSpec) => Promise<BackendConfig>

export interface MountedImage extends ImageSpec {
  /**
   * `fscache`, `fanotify`, `fuse`, or `erofs`: mounted by FUSE first, and since all of it is local by the kernel alone.
   */
  readonly driver: string
  /** Where it is now: the directory of its own, or one below the daemon's FUSE mount. */
  readonly mountpoint: string
}

/** A kernel descriptor of a daemon, and who has it: as long as one does, readers of a dead daemon wait for its successor. */
export interface DescriptorPlace {
  /** `shared`, or the id of the image that has the daemon to itself. */
  readonly daemon: string
  readonly name: string
  /** `daemon`, `snapshotter`, `holder`; `manager`, which was given it and cannot be asked. */
  readonly holders: readonly string[]
}

export interface ImageMounts {
  /** Adopts a living daemon or starts one, and takes mounts of an earlier run back. */
  start(): Promise<void>
  /**
   * Mounts the image unless it is mounted. Calls for one id are run one at a time; the second gets the first's result.
   * One that FUSE serves may have moved to the kernel meanwhile: ask again for each container.
   * @throws DRIVER_UNSUPPORTED, DAEMON_START, MOUNT_FAILED, CANARY_FAILED, LOOP_DEVICE, RAFS_* and backend faults
   */
  mount(spec: ImageSpec): Promise<MountedImage>
  /** Unmounts; the instance is released when its superblock is gone. An unknown id is no error. */
  unmount(id: string): Promise<void>
  get(id: string): MountedImage | undefined
  list(): MountedImage[]
  /** Stops watching. With `cleanup` every image is unmounted and the daemon stopped; otherwise both live on. */
  close(options: { cleanup: boolean }): Promise<void>
}

/** Something that an operator has to know; half sentences, the last one tells what to do. */
export interface Problem {
  readonly subject: string
  readonly problem: string
  readonly next: string
}
