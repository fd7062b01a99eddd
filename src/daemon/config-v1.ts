/** Version 1 of the configuration, and the form of 2020 before it, turned into version 2 (nydusd.md 2.3, 2.4). */
import { flag, isTable, optional, table, tableChecker, text, wholeNumber } from '../common/config-check.js'
import type { BackendSection, CacheSection, DaemonConfig, PrefetchSection, RafsSection } from './config.js'
import {
  batchSize,
  cacheType,
  externalBackends,
  NO_PREFETCH,
  off,
  rafsMode,
  type Table,
  type TableReader,
  U32_MAX,
} from './config-tables.js'

interface Version1 {
  mode: RafsSection['mode']
  digest_validate: boolean
  iostats_files: boolean
  enable_xattr: boolean
  access_pattern: boolean
  latest_read_files: boolean
  amplify_io: number
  fs_prefetch?: Table
}

interface Version1Prefetch {
  enable: boolean
  threads_count: number
  merging_size: number
  bandwidth_rate: number
  prefetch_all: boolean
  stream_prefetch: boolean
}

const SWITCHES = {
  digest_validate: off,
  iostats_files: off,
  enable_xattr: off,
  access_pattern: off,
  latest_read_files: off,
  amplify_io: batchSize,
  fs_prefetch: optional(table),
  // Seen in old files, and without meaning.
  id: optional(text),
  external_backend: optional(table),
}
const checkTop = {
  device: tableChecker<Version1>({ ...SWITCHES, mode: rafsMode, device: table }),
  device_config: tableChecker<Version1>({
    ...SWITCHES,
    mode: optional(rafsMode, 'direct'),
    device_config: table,
  }),
}
const checkDevice = tableChecker<{ id: string; external_backends: Table[]; cache: Table }>({
  id: optional(text, ''),
  backend: table,
  cache: optional(table, {}),
  external_backends: externalBackends,
})
const checkBackend = tableChecker<{ type: string }>({ type: text, config: optional(table) })
const checkCache = tableChecker<{ type: CacheSection['type'] | ''; compressed: boolean; validate: boolean }>({
  type: cacheType,
  compressed: off,
  validate: off,
  config: optional(table),
})
const checkPrefetch = tableChecker<Version1Prefetch>({
  enable: flag,
  threads_count: optional(wholeNumber(1, 1024), NO_PREFETCH.threads),
  merging_size: batchSize,
  bandwidth_rate: optional(wholeNumber(0, U32_MAX), 0),
  prefetch_all: optional(flag, true),
  stream_prefetch: off,
})

/** @param name the key of the device, which tells the forms apart */
export function readVersion1(
  document: Table,
  name: 'device' | 'device_config',
  reader: TableReader,
): DaemonConfig {
  const top = reader.read(checkTop[name], document, '')
  const prefetch = readPrefetch(top.fs_prefetch, reader)
  const raw = document[name]
  const device = reader.read(checkDevice, raw, name)
  const backend = isTable(raw) && isTable(raw['backend']) ? raw['backend'] : undefined
  return {
    version: 2,
    id: device.id,
    external_backends: device.external_backends,
    ...(backend && { backend: readBackend(backend, name, reader) }),
    cache: { ...readCache(device.cache, name, reader), prefetch },
    rafs: {
      mode: top.mode,
      batch_size: top.amplify_io,
      validate: top.digest_validate,
      enable_xattr: top.enable_xattr,
      iostats_files: top.iostats_files,
      access_pattern: top.access_pattern,
      latest_read_files: top.latest_read_files,
      prefetch,
    },
  }
}

function readBackend(raw: Table, device: string, reader: TableReader): BackendSection {
  const { type } = reader.read(checkBackend, raw, `${device}.backend`)
  const config = device === 'device_config' ? splitCredentials(raw['config']) : raw['config']
  return reader.readBackend(type, config, `${device}.backend.config`)
}

function readCache(
  raw: Table | undefined,
  device: string,
  reader: TableReader,
): Omit<CacheSection, 'prefetch'> {
  const { compressed, validate, ...given } = reader.read(checkCache, raw, `${device}.cache`)
  const type = given.type || 'dummycache'
  return {
    type,
    compressed,
    validate,
    ...reader.readCacheTable(type, raw?.['config'], `${device}.cache.config`),
  }
}

/** One section served both the file system and its cache. */
function readPrefetch(raw: Table | undefined, reader: TableReader): PrefetchSection {
  if ((raw?.['enable'] ?? false) === false) return NO_PREFETCH
  const given = reader.read(checkPrefetch, raw, 'fs_prefetch')
  return {
    enable: true,
    threads: given.threads_count,
    batch_size: given.merging_size,
    bandwidth_limit: given.bandwidth_rate,
    prefetch_all: given.prefetch_all,
    stream_prefetch: given.stream_prefetch,
  }
}

/** In 2020 the credentials stood in the address of the registry: `user:password@host`. */
function splitCredentials(raw: unknown): unknown {
  if (!isTable(raw) || typeof raw['host'] !== 'string') return raw
  const at = raw['host'].lastIndexOf('@')
  if (at < 0) return raw
  const auth = Buffer.from(raw['host'].slice(0, at)).toString('base64')
  return { ...raw, host: raw['host'].slice(at + 1), auth: raw['auth'] ?? auth }
}
