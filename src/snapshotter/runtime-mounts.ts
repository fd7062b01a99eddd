/**
 * What a runtime that mounts images in its guest (Kata Containers) is told of one: an option of the container's overlay
 * mount, which the mount helper nydus-overlayfs drops where the overlay is mounted here (nydus-snapshotter 0.x).
 */
import { readRafsVersion } from '../supervisor/bootstrap-file.js'
import { fuseConfig, type FuseTemplate } from '../supervisor/fuse-config.js'
import type { BackendConfigSource, ImageSpec } from '../supervisor/image-mounts.js'
import type { RuntimeMount } from './mounts.js'

export interface RuntimeMountsOptions {
  /** Name or path of the mount helper: what follows `fuse.` in the type of the mount. */
  readonly helper: string
  readonly template: FuseTemplate
  readonly backendConfig: BackendConfigSource
  readonly cacheDirectory: string
}

export class RuntimeMounts {
  readonly #options: RuntimeMountsOptions

  constructor(options: RuntimeMountsOptions) {
    this.#options = options
  }

  /**
   * The option holds credentials of the image: it goes to containerd, never to a log.
   * @param snapshotDirectory of the container's snapshot
   */
  async mountOf(spec: ImageSpec, snapshotDirectory: string): Promise<RuntimeMount> {
    const { helper, template, backendConfig, cacheDirectory } = this.#options
    const backend = await backendConfig(spec)
    const config = fuseConfig(template, { id: spec.id, backend, workDirectory: cacheDirectory })
    const told = {
      source: spec.bootstrapPath,
      config: JSON.stringify(config),
      snapshotdir: snapshotDirectory,
      fs_version: `v${readRafsVersion(spec.bootstrapPath)}`,
    }
    return { helper, option: `extraoption=${Buffer.from(JSON.stringify(told)).toString('base64')}` }
  }
}
