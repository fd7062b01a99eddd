import type { DaemonConfig } from './config.js'
import type { Table } from './config-tables.js'

/** Keys that are blanked wherever they stand in a backend's table, and what takes their place (upstream's choice). */
const BLANKS: Readonly<Record<string, null | ''>> = {
  auth: null,
  registry_token: null,
  access_key_id: '',
  access_key_secret: '',
}

/**
 * A configuration as it may be shown: version 2, without secrets. Beside upstream's four keys these are the encryption
 * key, headers of mirrors, credentials in URLs, and what external backends carry.
 */
export function redactConfig(config: DaemonConfig): Table {
  const { backend, cache, external_backends: external } = config
  return {
    version: config.version,
    id: config.id,
    backend: backend
      ? { type: backend.type, [backend.type]: redactBackend(backend[backend.type] ?? {}) }
      : null,
    external_backends: external.map(({ type }) => ({ type })),
    cache:
      cache?.filecache === undefined
        ? (cache ?? null)
        : { ...cache, filecache: { ...cache.filecache, encryption_key: '' } },
    rafs: config.rafs ?? null,
    overlay: config.overlay ?? null,
  }
}

function redactBackend(table: Table): Table {
  return Object.fromEntries(
    Object.entries(table).map(([key, value]) => [
      key,
      Object.hasOwn(BLANKS, key) ? BLANKS[key] : redactValue(key, value),
    ]),
  )
}

function redactValue(key: string, value: unknown): unknown {
  if (typeof value === 'string') return value.replace(/^([a-z]+:\/\/)[^/]*@/i, '$1')
  if (Array.isArray(value)) return value.map(item => redactValue(key, item))
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value)
  return Object.fromEntries(
    entries.map(([name, inner]) => [name, key === 'headers' ? '' : redactValue(name, inner)]),
  )
}
