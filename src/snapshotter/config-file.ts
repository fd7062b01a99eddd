import { readFileSync } from 'node:fs'
import { TomlError, parse } from 'smol-toml'
import { nearest } from '../common/config-check.js'
import { asFault, fault, hasErrno } from '../common/fault.js'
import {
  CONFIG_KEYS,
  type ConfigKeyName,
  type ConfigValue,
  type ConfigValues,
  isConfigKey,
} from './config-keys.js'

/** What `--config` named: our TOML, or nydusd's JSON as releases before v0.6 had it. */
export type ConfigFile =
  | { readonly kind: 'toml'; readonly values: ConfigValues; readonly problems: readonly string[] }
  | { readonly kind: 'nydusd-json' }

/**
 * Reads the operand of `--config`. Unknown keys and a wrong version are problems, not failures, so that all of them can
 * be told at once.
 * @throws CONFIG_MISSING; CONFIG_INVALID when it is neither JSON nor TOML
 */
export function readConfigFile(path: string): ConfigFile {
  const text = readText(path)
  if (/^\s*\{/.test(text)) return { kind: 'nydusd-json' }
  let table: Record<string, unknown>
  try {
    table = parse(text)
  } catch (err) {
    if (!(err instanceof TomlError)) throw err
    // What follows its first line quotes the file, which may hold credentials: it is no cause to be logged either.
    const reason = err.message.split('\n')[0] ?? ''
    throw fault('CONFIG_INVALID', `${path}, line ${err.line}, column ${err.column}: ${reason}`)
  }
  const { version, ...rest } = table
  const problems: string[] = []
  if (version !== 1)
    problems.push(`unsupported configuration version ${JSON.stringify(version ?? null)}: write version = 1`)
  const values = new Map<ConfigKeyName, ConfigValue>()
  for (const [key, value] of leaves(rest, '')) {
    if (!isConfigKey(key)) problems.push(`unknown key ${key}${suggestion(key)}`)
    else if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
      values.set(key, value)
    else problems.push(`${key} is ${Array.isArray(value) ? 'a list' : typeof value}, which no key takes`)
  }
  return { kind: 'toml', values, problems }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('CONFIG_MISSING', `--config ${path}: there is no such file`, { cause: err })
    throw asFault(err, 'CONFIG_MISSING', `--config ${path} cannot be read`)
  }
}

function* leaves(table: Record<string, unknown>, prefix: string): Generator<[string, unknown]> {
  for (const [name, value] of Object.entries(table)) {
    if (typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date))
      yield* leaves(value as Record<string, unknown>, `${prefix}${name}.`)
    else yield [prefix + name, value]
  }
}

/** The known key that is meant, if one is near: a few letters off, or the same word in another table. */
function suggestion(key: string): string {
  const known = Object.keys(CONFIG_KEYS)
  const last = (name: string): string => name.slice(name.lastIndexOf('.') + 1)
  const meant = nearest(key, known) ?? known.find(name => last(name) === last(key))
  return meant === undefined ? '' : ` (did you mean ${meant}?)`
}
