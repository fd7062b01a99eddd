import { readFileSync } from 'node:fs'
import { fault, hasErrno } from '../common/fault.js'
import { DEFAULT_FUSE_TEMPLATE, type FuseTemplate } from '../supervisor/fuse-config.js'
import type { BackendConfig } from '../supervisor/image-mounts.js'

/** nydusd's JSON template: where blobs come from, and the rest of it. */
export interface NydusdTemplate {
  readonly backend: BackendConfig
  /** For images that nydusd mounts by FUSE. */
  readonly fuse: FuseTemplate
}

const DEFAULT: NydusdTemplate = { backend: { type: 'registry', config: {} }, fuse: DEFAULT_FUSE_TEMPLATE }

/**
 * Reads the template in any of its shapes: `device.backend` (fusedev), `config.backend_type` and
 * `config.backend_config` (fscache), `backend` (version 2).
 *
 * @param given whether somebody named the file; the default one may be missing, then images come from their registry
 * @throws CONFIG_MISSING, CONFIG_INVALID; neither quotes the text, which holds passwords
 */
export function readNydusdTemplate(file: string, given: boolean): NydusdTemplate {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (err) {
    if (hasErrno(err, 'ENOENT') && !given) return DEFAULT
    throw fault(
      'CONFIG_MISSING',
      `nydusd's configuration ${file} cannot be read: name another --nydusd-config`,
      {
        cause: err,
      },
    )
  }
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch {
    throw fault('CONFIG_INVALID', `nydusd's configuration ${file} is not JSON: mend it`)
  }
  const template = isObject(document) ? templateOf(document) : undefined
  if (!template) {
    throw fault(
      'CONFIG_INVALID',
      `nydusd's configuration ${file} names no backend: it needs device.backend (fusedev) or config.backend_type and ` +
        'config.backend_config (fscache)',
    )
  }
  return template
}

function templateOf(document: Record<string, unknown>): NydusdTemplate | undefined {
  const { device, config, backend, ...rest } = document
  if (isNamed(member(device, 'backend'), 'type')) {
    const { backend: own, ...others } = device as Record<string, unknown>
    return {
      backend: { type: textOf(own, 'type'), config: objectOf(member(own, 'config')) },
      fuse: { ...DEFAULT_FUSE_TEMPLATE, ...rest, device: others },
    }
  }
  if (isNamed(config, 'backend_type')) {
    const prefetch = member(config, 'prefetch_config')
    return {
      backend: { type: textOf(config, 'backend_type'), config: objectOf(member(config, 'backend_config')) },
      fuse: { ...DEFAULT_FUSE_TEMPLATE, ...(isObject(prefetch) ? { fs_prefetch: prefetch } : {}) },
    }
  }
  if (isNamed(backend, 'type')) {
    const type = textOf(backend, 'type')
    return { backend: { type, config: objectOf(member(backend, type)) }, fuse: { ...rest, version: 2 } }
  }
  return undefined
}

function isNamed(value: unknown, name: string): boolean {
  return textOf(value, name) !== ''
}

function textOf(value: unknown, name: string): string {
  const text = member(value, name)
  return typeof text === 'string' ? text : ''
}

function objectOf(value: unknown): Record<string, unknown> {
  return isObject(value) ? value : {}
}

function member(value: unknown, name: string): unknown {
  return isObject(value) ? value[name] : undefined
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
