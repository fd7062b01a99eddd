import { asFault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import type { Directories } from './directories.js'
import type { Images } from './images.js'

/**
 * Gives back what a removed snapshot held: the mount of its image, then its directory. Deletions run one at a time,
 * beside the service. What fails is logged and stays where the next Cleanup finds it, and so does what was not begun
 * when the process ends.
 */
export class Reclaimer {
  readonly #directories: Directories
  readonly #images: Images
  readonly #log: Logger
  readonly #running = new Map<string, Promise<void>>()
  #deletions: Promise<void> = Promise.resolve()
  #closed = false

  constructor(directories: Directories, images: Images, log: Logger) {
    this.#directories = directories
    this.#images = images
    this.#log = log
  }

  /** Reclaims the directory of that name; a call for one that is being reclaimed waits with it. Never rejects. */
  reclaim(name: string): Promise<void> {
    let running = this.#running.get(name)
    if (!running) {
      running = this.#reclaim(name)
        .catch((err: unknown) => {
          this.#log.warn({ directory: name, err: asFault(err) }, 'directory of a removed snapshot is left')
        })
        .finally(() => this.#running.delete(name))
      this.#running.set(name, running)
    }
    return running
  }

  /** Waits for the deletion under way; those behind it are dropped. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(this.#running.values())
  }

  async #reclaim(name: string): Promise<void> {
    if (await this.#directories.hasMountpoint(name))
      await this.#images.release(name, this.#directories.mountPath(name))
    const deletion = this.#deletions.then(async () => {
      if (!this.#closed) await this.#directories.delete(name)
    })
    this.#deletions = deletion.catch(() => undefined)
    await deletion
  }
}
