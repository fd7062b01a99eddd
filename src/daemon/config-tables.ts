/** The tables of a configuration that both versions are made of, and how they are read (nydusd.md 2.2, 2.3). */
import type { ValidationSchema } from 'fastest-validator'
import { checkBackendTable, isBackendType } from '../backend/tables.js'
import { unknownBackend } from '../backend/create.js'
import {
  type CheckedTable,
  filledText,
  flag,
  isTable,
  list,
  optional,
  pattern,
  refuseProblems,
  tableChecker,
  table,
  text,
  wholeNumber,
  word,
} from '../common/config-check.js'
import type { BackendSection, CacheSection, PrefetchSection } from './config.js'

export type Table = Readonly<Record<string, unknown>>

/** Sizes of batches have at most 256 MiB. */
export const batchSize = optional(wholeNumber(0, 0x1000_0000), 1024 * 1024)
export const off = optional(flag, false)
export const U32_MAX = 0xffff_ffff

const PREFETCH: ValidationSchema = {
  enable: flag,
  threads: optional(wholeNumber(1, 1024), 8),
  batch_size: batchSize,
  bandwidth_limit: optional(wholeNumber(0, U32_MAX), 0),
  prefetch_all: off,
  stream_prefetch: off,
}
export const NO_PREFETCH: PrefetchSection = {
  enable: false,
  threads: 8,
  batch_size: 1024 * 1024,
  bandwidth_limit: 0,
  prefetch_all: false,
  stream_prefetch: false,
}

const workDirectory = optional(filledText, '.')
const checkFileCache = tableChecker<NonNullable<CacheSection['filecache']>>({
  work_dir: workDirectory,
  disable_indexed_map: off,
  enable_encryption: off,
  enable_convergent_encryption: off,
  encryption_key: optional(pattern(/^(?:[0-9a-fA-F]{64})?$/, 'a key of 32 bytes as 64 hex digits'), ''),
})
const checkFsCache = tableChecker<NonNullable<CacheSection['fscache']>>({ work_dir: workDirectory })
const checkPrefetch = tableChecker<PrefetchSection>(PREFETCH)

export const cacheType = optional(word('blobcache', 'filecache', 'fscache', 'dummycache', ''), '')
export const rafsMode = word('direct', 'cached')
export const externalBackends = optional(
  list({ type: 'object', props: { patch: optional(table), type: optional(text), config: optional(table) } }),
  [],
)

/** Reads tables one by one and remembers what is wrong in any of them, so that it can be told at once. */
export class TableReader {
  readonly #problems: string[] = []
  readonly #unknown: string[] = []

  /** The checked table. Where it has problems its value is only good for going on to look for more. */
  read<T>(check: (raw: unknown, path: string) => CheckedTable<T>, raw: unknown, path: string): T {
    const { value, problems, unknown } = check(raw, path)
    this.#problems.push(...problems)
    this.#unknown.push(...unknown)
    return value
  }

  /**
   * @param type what is no text was told as a problem where it was read
   * @param path where the table of the backend stands
   */
  readBackend(type: unknown, raw: unknown, path: string): BackendSection {
    if (typeof type !== 'string') return { type: 'localfs' }
    if (!isBackendType(type)) {
      this.#problems.push(`${path}: ${unknownBackend(type).message}`)
      return { type: 'localfs' }
    }
    const config = this.read((raw, path) => checkBackendTable(type, raw, path), raw ?? {}, path)
    return { type, [type]: config }
  }

  /** The table that a type of cache has; a missing one is that of its defaults. */
  readCacheTable(type: CacheSection['type'], raw: unknown, path: string): Partial<CacheSection> {
    if (type === 'dummycache') return {}
    if (type === 'fscache') return { fscache: this.read(checkFsCache, raw ?? {}, path) }
    return { filecache: this.read(checkFileCache, raw ?? {}, path) }
  }

  /** A section that is not enabled is what it is by default: its other keys are not looked at, as upstream has it. */
  readPrefetch(raw: unknown, path: string): PrefetchSection {
    if (raw === undefined || raw === null || (isTable(raw) && raw['enable'] === false)) return NO_PREFETCH
    return this.read(checkPrefetch, raw, path)
  }

  /** @throws CONFIG_INVALID with all problems */
  finish(warn: (message: string) => void): void {
    refuseProblems([...new Set(this.#problems)])
    this.#unknown.forEach(warn)
  }
}
