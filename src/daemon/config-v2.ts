/** Version 2 of the configuration (nydusd.md 2.2). */
import { BACKEND_TYPES } from '../backend/tables.js'
import { isTable, optional, table, tableChecker, text } from '../common/config-check.js'
import type { CacheSection, DaemonConfig, RafsSection } from './config.js'
import {
  batchSize,
  cacheType,
  externalBackends,
  off,
  rafsMode,
  type Table,
  type TableReader,
} from './config-tables.js'

const anyTable = optional(table)

const checkTop = tableChecker<{ id: string; external_backends: Table[] } & Record<string, unknown>>({
  version: { type: 'equal', value: 2, strict: true, messages: { equalValue: '{field}: 2 is wanted' } },
  id: optional(text, ''),
  backend: anyTable,
  external_backends: externalBackends,
  cache: anyTable,
  rafs: anyTable,
  overlay: anyTable,
})
const checkBackend = tableChecker<{ type: string }>({
  type: text,
  ...Object.fromEntries(BACKEND_TYPES.map(type => [type, anyTable])),
})
const checkCache = tableChecker<{ type: CacheSection['type'] | ''; compressed: boolean; validate: boolean }>({
  type: cacheType,
  compressed: off,
  validate: off,
  prefetch: anyTable,
  filecache: anyTable,
  fscache: anyTable,
})
const checkRafs = tableChecker<Omit<RafsSection, 'prefetch'>>({
  mode: optional(rafsMode, 'direct'),
  batch_size: batchSize,
  validate: off,
  enable_xattr: off,
  iostats_files: off,
  access_pattern: off,
  latest_read_files: off,
  prefetch: anyTable,
})
const checkOverlay = tableChecker<NonNullable<DaemonConfig['overlay']>>({ upper_dir: text, work_dir: text })

export function readVersion2(document: Table, reader: TableReader): DaemonConfig {
  const { backend, cache, rafs, overlay, ...top } = reader.read(checkTop, document, '')
  return {
    version: 2,
    id: top.id,
    external_backends: top.external_backends,
    ...(isTable(backend) && { backend: readBackend(backend, reader) }),
    ...(isTable(cache) && { cache: readCache(cache, reader) }),
    ...(isTable(rafs) && { rafs: readRafs(rafs, reader) }),
    ...(isTable(overlay) && { overlay: reader.read(checkOverlay, overlay, 'overlay') }),
  }
}

function readBackend(raw: Table, reader: TableReader): NonNullable<DaemonConfig['backend']> {
  const { type } = reader.read(checkBackend, raw, 'backend')
  return reader.readBackend(type, raw[type], `backend.${type}`)
}

function readCache(raw: Table, reader: TableReader): CacheSection {
  const { compressed, validate, ...given } = reader.read(checkCache, raw, 'cache')
  const type = given.type || 'dummycache'
  const name = type === 'fscache' ? 'fscache' : 'filecache'
  return {
    type,
    compressed,
    validate,
    prefetch: reader.readPrefetch(raw['prefetch'], 'cache.prefetch'),
    ...reader.readCacheTable(type, raw[name], `cache.${name}`),
  }
}

function readRafs(raw: Table, reader: TableReader): RafsSection {
  const rafs = reader.read(checkRafs, raw, 'rafs')
  return { ...rafs, prefetch: reader.readPrefetch(raw['prefetch'], 'rafs.prefetch') }
}
