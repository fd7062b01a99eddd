/** The configuration that goes with an image into nydusd's FUSE mount (nydusd 2.x: a v1 or v2 document as a string). */
import type { BackendConfig } from './image-mounts.js'

/**
 * An operator's document without its backend, v1 (`device`, `mode`) or v2 (`version: 2`). What nydusd knows and we do
 * not stays in it.
 */
export type FuseTemplate = Readonly<Record<string, unknown>>

/** Of an operator who names none. */
export const DEFAULT_FUSE_TEMPLATE: FuseTemplate = { mode: 'direct', enable_xattr: true }

export interface FuseConfigInput {
  /** Of the image. */
  readonly id: string
  readonly backend: BackendConfig
  /** Where the cache files are; the template does not decide that. */
  readonly workDirectory: string
}

/** The document for one image, in the version of the template. It holds credentials: never logged, never stored. */
export function fuseConfig(
  template: FuseTemplate,
  { id, backend, workDirectory: work_dir }: FuseConfigInput,
): Record<string, unknown> {
  if (template['version'] === 2) {
    const cache = objectAt(template, 'cache')
    return {
      ...template,
      id: `/${id}`,
      backend: { type: backend.type, [backend.type]: backend.config },
      cache: { ...cache, type: 'blobcache', filecache: { ...objectAt(cache, 'filecache'), work_dir } },
    }
  }
  const device = objectAt(template, 'device')
  const cache = objectAt(device, 'cache')
  return {
    ...template,
    device: {
      ...device,
      id: `/${id}`,
      backend,
      cache: { ...cache, type: 'blobcache', config: { ...objectAt(cache, 'config'), work_dir } },
    },
  }
}

function objectAt(value: Readonly<Record<string, unknown>>, name: string): Record<string, unknown> {
  const found = value[name]
  return typeof found === 'object' && found !== null ? (found as Record<string, unknown>) : {}
}
