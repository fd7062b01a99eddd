/** From a backend section of the configuration to a backend. */
import { configChecker, nearest } from '../common/config-check.js'
import { fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { LocalFsBackend, type LocalFsConfig } from './localfs.js'
import { createRegistryBackend, type RegistryConfig } from './registry.js'
import type { Backend } from './reader.js'

/** Types that configurations may name and that this release does not serve yet. */
const LATER_TYPES = ['oss', 's3', 'localdisk', 'http-proxy']
const TYPES = ['registry', 'localfs', ...LATER_TYPES]

const seconds = { type: 'number', integer: true, min: 0, max: 0xffffffff, optional: true }
const optionalText = { type: 'string', optional: true }
const optionalFlag = { type: 'boolean', optional: true }
const HOST = /^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?$/
const REPO = /^[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:\/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*$/

const checkRegistry = configChecker<RegistryConfig>({
  scheme: optionalText,
  host: { type: 'string', pattern: HOST, max: 255 },
  repo: { type: 'string', pattern: REPO, max: 255 },
  auth: { type: 'string', optional: true, nullable: true },
  registry_token: { type: 'string', optional: true, nullable: true },
  blob_url_scheme: optionalText,
  blob_redirected_host: optionalText,
  skip_verify: optionalFlag,
  ca_cert_files: { type: 'array', items: { type: 'string', empty: false }, optional: true },
  timeout: seconds,
  connect_timeout: seconds,
  retry_limit: { type: 'number', integer: true, min: 0, max: 255, optional: true },
  proxy: { type: 'object', optional: true },
  mirrors: { type: 'array', optional: true },
})

const checkLocalFs = configChecker<LocalFsConfig>({
  blob_file: optionalText,
  dir: optionalText,
  alt_dirs: { type: 'array', items: { type: 'string', empty: false }, optional: true },
  readahead: optionalFlag,
  readahead_sec: { type: 'number', optional: true },
})

/**
 * Builds the backend that `type` names (upstream's words) from its table of upstream's keys. Asks no network.
 * @throws CONFIG_INVALID with every problem at once, CREDENTIALS_INVALID, UNIMPLEMENTED for a type of a later release
 */
export function createBackend(type: string, config: unknown, options: { logger: Logger }): Backend {
  const where = `backend.${type}`
  if (type === 'registry') return createRegistryBackend(checkRegistry(config, where), options.logger)
  if (type === 'localfs') {
    const checked = checkLocalFs(config, where)
    if ((checked.blob_file ?? '') === '' && (checked.dir ?? '') === '')
      throw fault('CONFIG_INVALID', `${where}: neither "dir" nor "blob_file" says where blobs are: set one`)
    return new LocalFsBackend(checked)
  }
  if (LATER_TYPES.includes(type))
    throw fault('UNIMPLEMENTED', `backend type ${type} comes with a later release: use registry or localfs`)
  const near = nearest(type, TYPES)
  const hint = near === undefined ? `known types are ${TYPES.join(', ')}` : `did you mean "${near}"?`
  throw fault('CONFIG_INVALID', `unknown backend type ${JSON.stringify(type.slice(0, 80))}: ${hint}`)
}
