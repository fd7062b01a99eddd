import { readFileSync } from 'node:fs'
import { asFault, fault } from '../common/fault.js'

/** Options that configure a backend. */
export interface BackendConfigFlags {
  readonly backendConfig?: string
  /** The same in a file, which no process list shows. */
  readonly backendConfigFile?: string
}

/**
 * The configuration that goes with `--backend-type TYPE`.
 * @throws USAGE, CONFIG_MISSING, CONFIG_INVALID; none quotes the text, which may hold credentials
 */
export function readBackendConfig(type: string, flags: BackendConfigFlags): Record<string, unknown> {
  const { backendConfig, backendConfigFile } = flags
  if ((backendConfig === undefined) === (backendConfigFile === undefined))
    throw fault('USAGE', `--backend-type ${type} takes --backend-config or --backend-config-file`)
  const text = backendConfig ?? readConfigFile(backendConfigFile ?? '')
  let config: unknown
  try {
    config = JSON.parse(text)
  } catch {
    throw fault('CONFIG_INVALID', 'the configuration of the backend is not valid JSON: mend it')
  }
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw fault('CONFIG_INVALID', 'the configuration of the backend is no JSON object: write {"key": …}')
  return config as Record<string, unknown>
}

function readConfigFile(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (err) {
    throw asFault(err, 'CONFIG_MISSING', `the backend's configuration ${file} cannot be read`)
  }
}
