import { asFault, fault } from '../common/fault.js'
import type { ImageMounts, ImageSpec } from '../supervisor/image-mounts.js'
import { checkBootstrap, findBootstrap } from './bootstrap.js'
import { imageRefOf, printableLabels } from './labels.js'
import type { Labels } from './snapshots.js'

/** The layer that holds an image's bootstrap. */
export interface ImageLayer {
  readonly id: string
  readonly labels: Labels
  /** Its unpacked content. */
  readonly fsPath: string
  readonly mountPath: string
}

/**
 * Lazily read images as the snapshots need them. The supervisor's recovery runs beside the service and only calls that
 * need an image wait for it; when it fails, the next such call tries it again.
 */
export class Images {
  readonly #open: (() => Promise<ImageMounts>) | undefined
  readonly #whyNone: string
  readonly #guestMounts: boolean
  #mounts: ImageMounts | undefined
  #recovery: Promise<ImageMounts | undefined> | undefined
  #failure: string | undefined
  /** Mounts under way, by layer: containers that start together share one. */
  readonly #mounting = new Map<string, Promise<string>>()

  /**
   * @param open what mounts images, which takes longer to load than all the rest and is asked for once; `undefined`
   *   where no image can be mounted: plain layers work all the same
   * @param options.whyNone the reason for that, for those who ask for an image
   * @param options.guestMounts a runtime mounts images in its guests: where none can be mounted here, nobody minds
   */
  constructor(
    open: (() => Promise<ImageMounts>) | undefined,
    options: { whyNone?: string; guestMounts?: boolean } = {},
  ) {
    this.#open = open
    this.#whyNone = options.whyNone ?? ''
    this.#guestMounts = options.guestMounts ?? false
  }

  /** Why images cannot be served; undefined where they can, or where nobody has tried. */
  get failure(): string | undefined {
    return this.#failure
  }

  /** Takes mounts of an earlier run back; a second call waits for the first unless that failed. */
  async recover(): Promise<void> {
    await this.#recovered()
  }

  /**
   * The mountpoint of the image; mounts it unless it is mounted.
   * @throws SNAPSHOT_LABELS nobody said which image it is; SNAPSHOT_NOT_FOUND it has no bootstrap; what the supervisor
   *   throws
   */
  async ensureMounted(layer: ImageLayer): Promise<string> {
    const mounts = await this.#recovered()
    if (!mounts) {
      if (this.#guestMounts) return layer.fsPath
      throw fault(
        'DRIVER_UNSUPPORTED',
        `snapshot ${layer.id} is a lazily read image, which cannot be mounted: ${this.#whyNone}`,
      )
    }
    const underWay = this.#mounting.get(layer.id)
    if (underWay) return underWay
    const mounting = this.#mount(mounts, layer).finally(() => this.#mounting.delete(layer.id))
    this.#mounting.set(layer.id, mounting)
    return mounting
  }

  /** What the supervisor is told of an image. @throws SNAPSHOT_LABELS, RAFS_NOT_RAFS */
  async specOf(layer: ImageLayer): Promise<ImageSpec> {
    const imageRef = imageRefOf(layer.labels)
    if (imageRef === undefined) {
      throw fault(
        'SNAPSHOT_LABELS',
        `failed to find image ref of snapshot ${layer.id}, labels ${printableLabels(layer.labels)}: the client handed ` +
          'over no image labels; set disable_snapshot_annotations = false (CRI) or ' +
          'enable_remote_snapshot_annotations = "true" in the exports of the proxy plugin (transfer service), or pull ' +
          'with ctr-remote image rpull, and pull again',
      )
    }
    return {
      id: layer.id,
      imageRef,
      bootstrapPath: await findBootstrap(layer.fsPath),
      mountpoint: layer.mountPath,
      labels: layer.labels,
    }
  }

  async #mount(mounts: ImageMounts, layer: ImageLayer): Promise<string> {
    const spec = await this.specOf(layer)
    if (!mounts.get(layer.id)) {
      await checkBootstrap(layer.fsPath)
      await (await loadMountpoint()).readyMountpoint(spec.mountpoint)
    }
    return (await mounts.mount(spec)).mountpoint
  }

  /** Unmounts the image of a snapshot that is no more, and what else is mounted where it belongs. */
  async release(id: string, mountPath: string): Promise<void> {
    const mounts = await this.#recovered()
    await mounts?.unmount(id)
    await (await loadMountpoint()).clearMountpoint(mountPath)
  }

  async close(options: { cleanup: boolean }): Promise<void> {
    await this.#recovery?.catch(() => undefined)
    await this.#mounts?.close(options)
  }

  /** What mounts images, once it has taken its mounts back. */
  #recovered(): Promise<ImageMounts | undefined> {
    this.#recovery ??= this.#start().catch((err: unknown) => {
      this.#recovery = undefined
      this.#failure = asFault(err).message
      throw err
    })
    return this.#recovery
  }

  async #start(): Promise<ImageMounts | undefined> {
    this.#mounts ??= await this.#open?.()
    await this.#mounts?.start()
    this.#failure = undefined
    return this.#mounts
  }
}

/** Behind the service, as all that mounts. */
async function loadMountpoint(): Promise<typeof import('./mountpoint.js')> {
  return await import('./mountpoint.js')
}
