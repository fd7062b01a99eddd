import { randomBytes } from 'node:crypto'
import type { Entry } from '../../demo/image.js'
import { digestOfBytes } from './push-image.js'

const DATA_BYTES = 3_000_000

/** A layer of files that no program needs, so that a test decides when they are read for the first time. */
export function dataFiles(names: readonly string[], sizeBytes = DATA_BYTES): Entry[] {
  const files = names.map((name): Entry => {
    const bytes = randomBytes(sizeBytes)
    return { path: `data/${name}`, mode: 0o640, type: 'file', sizeBytes, source: { bytes } }
  })
  return [{ path: 'data', mode: 0o755, type: 'directory' }, ...files]
}

/** What `sha256sum` says of one of them. */
export function sumOf(layer: readonly Entry[], name: string): string {
  const entry = layer.find(one => one.path === `data/${name}`)
  if (entry?.type !== 'file' || !('bytes' in entry.source)) throw new Error(`no file ${name}`)
  return `${digestOfBytes(entry.source.bytes).slice(7)}  /data/${name}\n`
}
