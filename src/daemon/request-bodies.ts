/** Bodies and queries of requests, checked: what is refused here never reaches the daemon (nydusd.md 3.2, 3.3). */
import type { BlobCacheEntry, MountCommand } from '../client/api.js'
import { isTable } from '../common/config-check.js'
import { fault } from '../common/fault.js'

/** @throws REQUEST_INVALID */
export function requiredParameter(query: URLSearchParams, name: string): string {
  const value = query.get(name)
  if (value === null) throw fault('REQUEST_INVALID', `QueryString("${name}"): the parameter is missing`)
  return value
}

/** Upstream's word for a switch: `true` or `false`. @throws REQUEST_INVALID */
export function flagParameter(query: URLSearchParams, name: string): boolean {
  const value = query.get(name)
  if (value !== null && value !== 'true' && value !== 'false')
    throw fault('REQUEST_INVALID', `QueryString("${name}"): true or false is wanted`)
  return value === 'true'
}

/** @throws REQUEST_INVALID */
export function parseLogLevel(body: unknown): string {
  const level = isTable(body) ? body['log_level'] : undefined
  if (typeof level !== 'string') throw parseFault('log_level must be a string')
  return level
}

/** @throws REQUEST_INVALID */
export function parseMountCommand(body: unknown): MountCommand {
  if (!isTable(body)) throw parseFault('a mount command is an object')
  const { source, fs_type: type, config, prefetch_files: files } = body
  if (typeof source !== 'string') throw parseFault('source must be a string')
  if (typeof config !== 'string') throw parseFault('config must be a string: the text of the configuration')
  return { source, fs_type: fsType(type), config, ...prefetchFiles(files) }
}

/** A mount as it was asked for in 2020: the mountpoint stands in the body, the configuration is the daemon's own. */
export interface OldMountCommand {
  readonly mountpoint: string
  readonly source: string
  readonly fs_type: string
}

/** @throws REQUEST_INVALID */
export function parseOldMountCommand(body: unknown): OldMountCommand {
  const { source, fstype, mountpoint } = isTable(body) ? body : {}
  if (typeof mountpoint !== 'string')
    throw fault('REQUEST_INVALID', 'QueryString("mountpoint"): the parameter is missing')
  if (typeof source !== 'string') throw parseFault('source must be a string')
  return { mountpoint, source, fs_type: fsType(fstype) }
}

/** Pairs of the runtime configuration. @throws REQUEST_INVALID */
export function parseSettings(body: unknown): Record<string, string> {
  if (!isTable(body)) throw parseFault('settings are an object of strings')
  for (const [key, value] of Object.entries(body))
    if (typeof value !== 'string') throw parseFault(`${JSON.stringify(key.slice(0, 80))} must be a string`)
  return body as Record<string, string>
}

/** @throws REQUEST_INVALID */
export function parseBlobEntry(body: unknown): BlobCacheEntry {
  if (!isTable(body)) throw parseFault('a blob cache entry is an object')
  const { type, id, domain_id: domainId, config } = body
  if (type !== 'bootstrap') throw fault('REQUEST_INVALID', 'only entries of type bootstrap may be bound')
  for (const [name, value] of Object.entries({ id, domain_id: domainId })) {
    if (typeof value !== 'string' || value === '' || value.includes('/'))
      throw fault('REQUEST_INVALID', `${name} must be a non-empty string without '/'`)
  }
  if (!isTable(config)) throw fault('REQUEST_INVALID', 'config must be an object')
  for (const name of ['backend_type', 'metadata_path']) {
    if (typeof config[name] !== 'string') throw fault('REQUEST_INVALID', `config.${name} must be a string`)
  }
  if (!isTable(config['backend_config']))
    throw fault('REQUEST_INVALID', 'config.backend_config must be an object')
  return body as unknown as BlobCacheEntry
}

/** A missing type is refused with the unknown ones, by the mount. */
function fsType(type: unknown): string {
  if (type === undefined || type === null) return ''
  if (typeof type !== 'string') throw parseFault('fs_type must be a string')
  return type
}

function prefetchFiles(files: unknown): Pick<MountCommand, 'prefetch_files'> {
  if (files === undefined || files === null) return {}
  if (!Array.isArray(files) || files.some(file => typeof file !== 'string'))
    throw parseFault('prefetch_files must be a list of strings')
  return { prefetch_files: files as string[] }
}

function parseFault(problem: string): Error {
  return fault('REQUEST_INVALID', `ParseBody(${problem})`)
}
