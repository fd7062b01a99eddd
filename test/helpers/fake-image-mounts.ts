import { mkdirSync } from 'node:fs'
import type { ImageMounts, ImageSpec, MountedImage } from '../../src/supervisor/image-mounts.js'

/** Keeps the promises of the interface without a daemon or a kernel, remembers the calls, and fails when told to. */
export class FakeImageMounts implements ImageMounts {
  readonly mounted = new Map<string, MountedImage>()
  readonly calls: string[] = []
  startFailure: Error | undefined
  mountFailure: Error | undefined
  unmountFailure: Error | undefined
  /** Awaited by `start`. */
  recovery: Promise<void> = Promise.resolve()
  readonly #mounting = new Map<string, Promise<MountedImage>>()

  async start(): Promise<void> {
    this.calls.push('start')
    await this.recovery
    if (this.startFailure) throw this.startFailure
  }

  async mount(spec: ImageSpec): Promise<MountedImage> {
    let mounting = this.#mounting.get(spec.id)
    if (!mounting) {
      mounting = this.#mount(spec).finally(() => this.#mounting.delete(spec.id))
      this.#mounting.set(spec.id, mounting)
    }
    return await mounting
  }

  async unmount(id: string): Promise<void> {
    this.calls.push(`unmount ${id}`)
    if (this.unmountFailure) throw this.unmountFailure
    this.mounted.delete(id)
  }

  get(id: string): MountedImage | undefined {
    return this.mounted.get(id)
  }

  list(): MountedImage[] {
    return [...this.mounted.values()]
  }

  async close(options: { cleanup: boolean }): Promise<void> {
    this.calls.push(`close ${options.cleanup}`)
  }

  async #mount(spec: ImageSpec): Promise<MountedImage> {
    const mounted = this.mounted.get(spec.id)
    if (mounted) return mounted
    this.calls.push(`mount ${spec.id}`)
    await new Promise(resolve => setImmediate(resolve))
    if (this.mountFailure) throw this.mountFailure
    mkdirSync(spec.mountpoint, { recursive: true })
    const image = { ...spec, driver: 'fanotify' }
    this.mounted.set(spec.id, image)
    return image
  }
}
