/** From a backend section of the configuration to a backend. */
import { nearest, refuseProblems } from '../common/config-check.js'
import { fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { LocalFsBackend } from './localfs.js'
import type { Backend } from './reader.js'
import { createRegistryBackend } from './registry.js'
import {
  BACKEND_TYPES,
  type BackendTables,
  type BackendType,
  checkBackendTable,
  isBackendType,
} from './tables.js'

/**
 * Builds the backend that `type` names (upstream's words) from its table of upstream's keys. Asks no network.
 * @throws CONFIG_INVALID with every problem at once, CREDENTIALS_INVALID, UNIMPLEMENTED for a type of a later release
 */
export function createBackend(type: string, config: unknown, options: { logger: Logger }): Backend {
  if (!isBackendType(type)) throw unknownBackend(type)
  if (type === 'registry') return createRegistryBackend(checked(type, config), options.logger)
  if (type === 'localfs') return new LocalFsBackend(checked(type, config))
  throw fault('UNIMPLEMENTED', `backend type ${type} comes with a later release: use registry or localfs`)
}

function checked<Type extends BackendType>(type: Type, config: unknown): BackendTables[Type] {
  const { value, problems, unknown } = checkBackendTable(type, config, `backend.${type}`)
  refuseProblems([...unknown, ...problems])
  return value
}

/** The fault of a type that no backend has. */
export function unknownBackend(type: string): Error {
  const near = nearest(type, BACKEND_TYPES)
  const hint = near === undefined ? `known types are ${BACKEND_TYPES.join(', ')}` : `did you mean "${near}"?`
  return fault('CONFIG_INVALID', `unknown backend type ${JSON.stringify(type.slice(0, 80))}: ${hint}`)
}
