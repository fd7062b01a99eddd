/** Files of images to fetch at their next mount (upstream's `PUT /api/v1/prefetch`): kept by exact reference, used once. */
import { isTable } from '../common/config-check.js'
import { fault } from '../common/fault.js'

export interface PrefetchList {
  /** Full reference. */
  readonly image: string
  /** Absolute paths in the image. */
  readonly files: readonly string[]
}

/** Images that are never mounted must not fill the memory: the oldest goes. */
const MAX_LISTS = 1000

export class PrefetchLists {
  readonly #lists = new Map<string, readonly string[]>()

  put(lists: readonly PrefetchList[]): void {
    for (const { image, files } of lists) {
      this.#lists.delete(image)
      this.#lists.set(image, files)
    }
    for (const image of this.#lists.keys()) {
      if (this.#lists.size <= MAX_LISTS) return
      this.#lists.delete(image)
    }
  }

  /** The list of an image, which is forgotten. */
  take(image: string): readonly string[] {
    const files = this.#lists.get(image) ?? []
    this.#lists.delete(image)
    return files
  }
}

/** `[{"image": ref, "prefetch": "/path /path …"}]`, paths apart by white space. @throws REQUEST_INVALID */
export function parsePrefetchLists(body: unknown): PrefetchList[] {
  if (!Array.isArray(body)) throw fault('REQUEST_INVALID', 'prefetch lists are an array of objects')
  return body.map((entry: unknown) => {
    const { image, prefetch } = isTable(entry) ? entry : {}
    if (typeof image !== 'string' || image === '' || typeof prefetch !== 'string')
      throw fault('REQUEST_INVALID', 'each prefetch list has an image and the paths in it, two strings')
    const files = prefetch.split(/\s+/).filter(path => path !== '')
    const relative = files.find(path => !path.startsWith('/'))
    if (relative !== undefined)
      throw fault('REQUEST_INVALID', `prefetch: ${JSON.stringify(relative)} does not begin with "/"`)
    return { image, files }
  })
}
