import type { ConvertObserver } from './convert.js'
import type { LayerOrigin } from './layer-converter.js'
import type { MergeableLayer } from './layer-record.js'
import type { SourceImage } from './source-image.js'

interface Output {
  readonly isTTY?: boolean
  write(text: string): unknown
}

const REDRAW_MS = 200

/** How a layer that was not built now is told of. */
const ORIGIN_WORDS: Record<LayerOrigin, string> = {
  built: '',
  same: ', converted already',
  resumed: ', done by the interrupted run',
  cached: ', from the build cache',
}

/** Tells a person how a conversion goes on: one moving line a layer on a terminal, one line a layer elsewhere. */
export class ConvertProgress implements ConvertObserver {
  readonly #out: Output
  #layers = 0
  #drawnMs = 0
  #dirty = false

  constructor(out: Output) {
    this.#out = out
  }

  resolved({ source, manifest, config, descriptor }: SourceImage): void {
    this.#layers = manifest.layers.length
    const { os, architecture, variant } = descriptor.platform ?? config
    const platform = [os, architecture, variant].filter(part => part !== undefined).join('/')
    this.#line(`${source.name} (${platform}): ${this.#layers} layers`)
  }

  layerRead(index: number, doneBytes: number, sizeBytes: number): void {
    const nowMs = performance.now()
    if (this.#out.isTTY !== true || nowMs - this.#drawnMs < REDRAW_MS) return
    this.#drawnMs = nowMs
    this.#dirty = true
    const percent = sizeBytes > 0 ? Math.min(100, Math.floor((100 * doneBytes) / sizeBytes)) : 100
    this.#out.write(`\r\x1b[K${this.#label(index)} ${percent}% of ${formatSize(sizeBytes)}`)
  }

  layerDone(index: number, layer: MergeableLayer, origin: LayerOrigin): void {
    const { digestHex, sizeBytes, blob, droppedXattrs } = layer
    const chunks = blob ? `${blob.chunkCount} chunks` : 'no data'
    const dropped =
      droppedXattrs > 0 ? `; ${droppedXattrs} extended attributes of unknown namespaces left out` : ''
    const id = digestHex.slice(0, 12)
    this.#line(
      `${this.#label(index)} ${id} ${formatSize(sizeBytes)}, ${chunks}${ORIGIN_WORDS[origin]}${dropped}`,
    )
  }

  kept(directory: string): void {
    this.#line(`what is done is kept in ${directory}: the same command goes on from there`)
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
