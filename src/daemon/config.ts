/**
 * The configuration of nydusd in the one shape that the daemon works with: version 2 (nydusd.md 2.2), whichever shape it
 * was written in. Names are those of the document, so that it can be shown as it is.
 */
import { parse as parseToml, TomlError } from 'smol-toml'
import type { BackendType } from '../backend/tables.js'
import { isTable } from '../common/config-check.js'
import { fault } from '../common/fault.js'
import { type Table, TableReader } from './config-tables.js'
import { readVersion1 } from './config-v1.js'
import { readVersion2 } from './config-v2.js'

export interface DaemonConfig {
  readonly version: 2
  readonly id: string
  readonly backend?: BackendSection
  /** Carried, and used by nothing here. */
  readonly external_backends: readonly Table[]
  readonly cache?: CacheSection
  readonly rafs?: RafsSection
  /** Its presence asks for a writable mount. */
  readonly overlay?: { readonly upper_dir: string; readonly work_dir: string }
}

/** `type`, and below its name the table of that backend, checked; defaults are the backend's own. */
export type BackendSection = { readonly type: BackendType } & { readonly [Type in BackendType]?: Table }

export interface CacheSection {
  /** `blobcache` and `filecache` are one; `dummycache` keeps nothing. */
  readonly type: 'blobcache' | 'filecache' | 'fscache' | 'dummycache'
  /** Keep blobs as they are stored. */
  readonly compressed: boolean
  readonly validate: boolean
  readonly prefetch: PrefetchSection
  readonly filecache?: FileCacheTable
  readonly fscache?: { readonly work_dir: string }
}

export interface FileCacheTable {
  readonly work_dir: string
  readonly disable_indexed_map: boolean
  readonly enable_encryption: boolean
  readonly enable_convergent_encryption: boolean
  /** 64 hex digits, or empty. */
  readonly encryption_key: string
}

export interface PrefetchSection {
  readonly enable: boolean
  readonly threads: number
  /** Bytes. */
  readonly batch_size: number
  /** Bytes a second; 0 is without limit. */
  readonly bandwidth_limit: number
  readonly prefetch_all: boolean
  readonly stream_prefetch: boolean
}

export interface RafsSection {
  readonly mode: 'direct' | 'cached'
  /** Bytes that a small read of a file is widened to. */
  readonly batch_size: number
  readonly validate: boolean
  readonly enable_xattr: boolean
  readonly iostats_files: boolean
  readonly access_pattern: boolean
  readonly latest_read_files: boolean
  readonly prefetch: PrefetchSection
}

/** What a mount needs of a configuration. */
export type MountConfig = DaemonConfig & Required<Pick<DaemonConfig, 'backend' | 'cache' | 'rafs'>>

const LIMIT_BYTES = 1024 * 1024

/**
 * Reads a configuration in any shape that nydusd ever took: version 2 as JSON or TOML, version 1, and `device_config` of
 * 2020. Unknown keys are left out.
 * @param warn told of each key that is left out
 * @throws CONFIG_INVALID with the path of every key that is wrong; no value of the text is quoted
 */
export function parseDaemonConfig(
  text: string,
  warn: (message: string) => void = () => undefined,
): DaemonConfig {
  if (Buffer.byteLength(text) > LIMIT_BYTES)
    throw fault('CONFIG_INVALID', 'the configuration is larger than 1 MiB: is that the right file?')
  const document = parseDocument(text)
  const reader = new TableReader()
  const config = readAnyVersion(document, reader)
  reader.finish(warn)
  return config
}

/** @throws CONFIG_INVALID naming the sections that a mount needs and that are missing */
export function requireMountConfig(config: DaemonConfig): MountConfig {
  const missing = (['backend', 'cache', 'rafs'] as const).filter(name => config[name] === undefined)
  if (missing.length > 0)
    throw fault('CONFIG_INVALID', `the configuration has no ${missing.join(', ')}: a mount needs it`)
  return config as MountConfig
}

/** The directory of the cache; undefined where nothing is kept. */
export function cacheDirectory({ cache }: DaemonConfig): string | undefined {
  return cache?.filecache?.work_dir ?? cache?.fscache?.work_dir
}

function readAnyVersion(document: Table, reader: TableReader): DaemonConfig {
  if (document['version'] !== undefined) return readVersion2(document, reader)
  if (document['device'] !== undefined) return readVersion1(document, 'device', reader)
  if (document['device_config'] !== undefined) return readVersion1(document, 'device_config', reader)
  throw fault(
    'CONFIG_INVALID',
    'the configuration has neither "version" (2) nor "device" (1): see its reference',
  )
}

function parseDocument(text: string): Table {
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch (err) {
    if (!/^\s*[{[]/.test(text)) return parseTomlDocument(text)
    // The parser's own sentence quotes the text.
    const offset = /position (\d+)/.exec(err instanceof Error ? err.message : '')?.[1]
    const where = offset === undefined ? 'it ends too early' : placeOf(text, Number(offset))
    throw fault('CONFIG_INVALID', `failed to parse configuration information: not valid JSON, ${where}`)
  }
  if (!isTable(document)) throw fault('CONFIG_INVALID', 'the configuration is no table of keys and values')
  return document
}

function parseTomlDocument(text: string): Table {
  try {
    return parseToml(text)
  } catch (err) {
    if (!(err instanceof TomlError)) throw err
    throw fault(
      'CONFIG_INVALID',
      `failed to parse configuration information: neither JSON nor TOML, line ${err.line}, column ${err.column}`,
    )
  }
}

function placeOf(text: string, offset: number): string {
  const before = text.slice(0, offset).split('\n')
  return `line ${before.length}, column ${(before.at(-1) ?? '').length + 1}`
}
