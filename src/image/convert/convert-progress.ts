import type { BuiltLayer } from '../build/build-layer.js'
import type { ConvertObserver } from './convert.js'
import { formatReference } from '../../oci/reference.js'
import type { SourceImage } from './source-image.js'

interface Output {
  readonly isTTY?: boolean
  write(text: string): unknown
}

const REDRAW_MS = 200

/** Tells a person how a conversion goes on: one moving line a layer on a terminal, one line a layer elsewhere. */
export class ConvertProgress implements ConvertObserver {
  readonly #out: Output
  #layers = 0
  #drawnMs = 0
  #dirty = false

  constructor(out: Output) {
    this.#out = out
  }

  resolved({ reference, manifest, config }: SourceImage): void {
    this.#layers = manifest.layers.length
    const platform = `${config.os}/${config.architecture}`
    this.#line(`${formatReference(reference)} (${platform}): ${this.#layers} layers`)
  }

  layerRead(index: number, doneBytes: number, sizeBytes: number): void {
    const nowMs = performance.now()
    if (this.#out.isTTY !== true || nowMs - this.#drawnMs < REDRAW_MS) return
    this.#drawnMs = nowMs
    this.#dirty = true
    const percent = sizeBytes > 0 ? Math.min(100, Math.floor((100 * doneBytes) / sizeBytes)) : 100
    this.#out.write(`\r\x1b[K${this.#label(index)} ${percent}% of ${formatSize(sizeBytes)}`)
  }

  layerBuilt(index: number, { digestHex, sizeBytes, blob, droppedXattrs }: BuiltLayer): void {
    const chunks = blob ? `${blob.chunkCount} chunks` : 'no data'
    const dropped =
      droppedXattrs > 0 ? `; ${droppedXattrs} extended attributes of unknown namespaces left out` : ''
    const id = digestHex.slice(0, 12)
    this.#line(`${this.#label(index)} ${id} ${formatSize(sizeBytes)}, ${chunks}${dropped}`)
  }

  #label(index: number): string {
    return `layer ${index + 1}/${this.#layers}:`
  }

  #line(text: string): void {
    this.#out.write(`${this.#dirty ? '\r\x1b[K' : ''}${text}\n`)
    this.#dirty = false
  }
}

/** Bytes as a person reads them. */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}
