import { type ImageSource, type ImageTarget, ensureBlob } from '../../oci/image-store.js'
import type { Descriptor, Index } from '../../oci/manifest.js'
import type { WantedPlatform } from '../../oci/platform.js'
import type { FetchedManifest } from '../../oci/registry-client.js'
import { selectManifests } from '../../oci/platform.js'

export interface CopyRequest {
  readonly source: ImageSource
  readonly target: ImageTarget
  /** Of an index; `all` takes the index as it is. An image that is in no index is copied whatever this says. */
  readonly platforms: readonly WantedPlatform[] | 'all'
  readonly signal: AbortSignal
  readonly observer: CopyObserver
}

export interface CopyObserver {
  /** A blob is at the target; `movedBytes` is 0 where it was there or did not have to travel. */
  copied(blob: Descriptor, movedBytes: number): void
}

export interface CopyResult {
  /** Of the manifest or index that the target's name stands for. */
  readonly digest: string
  /** Stored bytes of all blobs, and those of them that moved. */
  readonly sizeBytes: number
  readonly movedBytes: number
}

/** Blobs under way at a time. */
const BLOBS_AT_ONCE = 4

/**
 * Copies an image of any kind, plain or nydus, with everything it refers to. Manifests stay as they are; an index of fewer
 * platforms is a new one. @throws REGISTRY_NOT_FOUND for a platform that is not there, faults of the stores
 */
export async function copyImage(request: CopyRequest): Promise<CopyResult> {
  const { source, target, platforms, signal } = request
  const root = await source.resolve({ signal })
  const copy = new Copy(request)
  let named: Pick<FetchedManifest, 'bytes'> & { readonly mediaType: string }
  if (root.content.kind === 'manifest' || platforms === 'all') {
    await copy.parts(root)
    named = { bytes: root.bytes, mediaType: root.descriptor.mediaType }
  } else {
    const entries = [...new Set(platforms.flatMap(wanted => selectManifests(root.content as Index, wanted)))]
    const fetched: FetchedManifest[] = []
    for (const entry of entries) fetched.push(await copy.entry(entry))
    const [first] = fetched
    named =
      first && fetched.length === 1
        ? { bytes: first.bytes, mediaType: first.descriptor.mediaType }
        : { bytes: keepEntries(root.bytes, entries), mediaType: root.descriptor.mediaType }
  }
  const { digest } = await target.putManifest(named.mediaType, named.bytes, { signal, named: true })
  await target.commit()
  return { digest, sizeBytes: copy.sizeBytes, movedBytes: copy.movedBytes }
}

class Copy {
  sizeBytes = 0
  movedBytes = 0
  readonly #request: CopyRequest
  readonly #done = new Set<string>()

  constructor(request: CopyRequest) {
    this.#request = request
  }

  /** Copies what an index lists. */
  async entry(entry: Descriptor): Promise<FetchedManifest> {
    const { source, target, signal } = this.#request
    const fetched = await source.fetchManifest(entry, { signal })
    if (this.#done.has(entry.digest)) return fetched
    this.#done.add(entry.digest)
    await this.parts(fetched)
    await target.putManifest(fetched.descriptor.mediaType, fetched.bytes, { signal, named: false })
    return fetched
  }

  /** Copies what a manifest or index refers to. */
  async parts({ content }: FetchedManifest): Promise<void> {
    if (content.kind === 'index') {
      for (const entry of content.manifests) await this.entry(entry)
      return
    }
    const blobs = [...content.layers, content.config].filter(({ digest }) => !this.#done.has(digest))
    for (const { digest } of blobs) this.#done.add(digest)
    const waiting = [...new Map(blobs.map(blob => [blob.digest, blob])).values()]
    const worker = async (): Promise<void> => {
      for (let blob = waiting.shift(); blob; blob = waiting.shift()) await this.#blob(blob)
    }
    await Promise.all(Array.from({ length: BLOBS_AT_ONCE }, worker))
  }

  async #blob(blob: Descriptor): Promise<void> {
    const { source, target, signal, observer } = this.#request
    const movedBytes = await ensureBlob(target, blob, source, { signal })
    this.sizeBytes += blob.size
    this.movedBytes += movedBytes
    observer.copied(blob, movedBytes)
  }
}

/** The index with some of its entries, each as it was. */
function keepEntries(index: Uint8Array, entries: readonly Descriptor[]): Buffer {
  const document = JSON.parse(Buffer.from(index).toString('utf8')) as { manifests: { digest: string }[] }
  const kept = new Set(entries.map(({ digest }) => digest))
  return Buffer.from(
    JSON.stringify({ ...document, manifests: document.manifests.filter(({ digest }) => kept.has(digest)) }),
  )
}
