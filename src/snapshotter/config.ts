import { statSync } from 'node:fs'
import path from 'node:path'
import FastestValidator, { type ValidationRule, type ValidationSchema } from 'fastest-validator'
import { parseDurationMs } from '../common/duration.js'
import { fault } from '../common/fault.js'
import type { RecoverPolicy } from '../supervisor/watched-daemon.js'
import { readConfigFile } from './config-file.js'
import {
  CONFIG_KEYS,
  type ConfigKey,
  type ConfigKeyName,
  type ConfigValue,
  configKey,
  isConfigKey,
} from './config-keys.js'
import type { Flags } from './flags.js'

/** What the process runs with, once flags, file and defaults are merged and checked. Paths are absolute. */
export interface Settings {
  readonly root: string
  readonly address: string
  readonly owner: { readonly uid: number; readonly gid: number }
  /** The system controller's socket; `undefined` for none. */
  readonly system: { readonly address: string; readonly owner: Settings['owner'] } | undefined
  /** Why no image can be mounted, `undefined` where one can. */
  readonly noImages: string | undefined
  readonly cleanupOnClose: boolean
  /** Empty: the one of this package. */
  readonly nydusdPath: string
  readonly nydusdConfigPath: string
  /** Whether somebody named that file; the default one may be missing. */
  readonly nydusdConfigGiven: boolean
  readonly fsDriver: string
  /** One nydusd for each image; with `fusedev` only. */
  readonly dedicated: boolean
  /** FUSE threads of nydusd; 0: its own choice. */
  readonly threads: number
  readonly failoverPolicy: string
  readonly recoverPolicy: RecoverPolicy
  /**
   * Helper of mounts that tell a runtime which image is below (Kata mounts it in the guest); `undefined` for plain
   * overlays.
   */
  readonly overlayHelper: string | undefined
  /** Where metrics are served, `undefined` for nowhere. */
  readonly metricsAddress: ListenAddress | undefined
  readonly logLevel: string
  readonly logDirectory: string
  readonly logToStdout: boolean
  readonly syncRemove: boolean
  readonly alwaysVolatile: boolean
  readonly cacheDirectory: string
  /** Sentences about what was given and has no effect, for the log. */
  readonly warnings: readonly string[]
}

export interface ListenAddress {
  /** Empty: all of this machine's. */
  readonly host: string
  readonly port: number
}

/** Unix socket paths have 108 bytes, of which names below the root take up to 38. */
const ROOT_MAX_BYTES = 70
const SOCKET_MAX_BYTES = 107

/**
 * Merges flags over the file over defaults. A value that is written out counts even where it is false, 0 or empty.
 * @throws CONFIG_INVALID naming every problem, CONFIG_MISSING
 */
export function resolveSettings(flags: Flags): Settings {
  const file = flags.configPath === undefined ? undefined : readConfigFile(flags.configPath)
  const explicit = new Map<ConfigKeyName, ConfigValue>(file?.kind === 'toml' ? file.values : [])
  if (file?.kind === 'nydusd-json' && flags.configPath !== undefined)
    explicit.set('daemon.nydusd_config', flags.configPath)
  for (const [key, value] of flags.values) explicit.set(key, value)

  const level = explicit.get('log.level')
  if (typeof level === 'string') explicit.set('log.level', level.toLowerCase())
  const values = new Map(explicit)
  for (const key of Object.keys(CONFIG_KEYS).filter(isConfigKey))
    if (!values.has(key)) values.set(key, configKey(key).default)
  const problems = [...(file?.kind === 'toml' ? file.problems : []), ...problemsOf(values)]
  if (problems.length > 0) {
    const where =
      flags.configPath === undefined ? 'the command line' : `${flags.configPath} or the command line`
    throw fault('CONFIG_INVALID', `${where} is wrong: ${problems.join('; ')}`)
  }
  return settingsOf(values, explicit, flags.ineffective)
}

function settingsOf(
  values: ReadonlyMap<ConfigKeyName, ConfigValue>,
  explicit: ReadonlyMap<ConfigKeyName, ConfigValue>,
  ineffective: readonly string[],
): Settings {
  const text = (key: ConfigKeyName): string => String(values.get(key))
  const on = (key: ConfigKeyName): boolean => values.get(key) === true
  const root = path.resolve(text('root'))
  const orDefault = (key: ConfigKeyName, name: string): string =>
    path.resolve(text(key) || path.join(root, name))
  return {
    root,
    address: path.resolve(text('address')),
    owner: { uid: Number(values.get('uid')), gid: Number(values.get('gid')) },
    system: on('system.enable')
      ? {
          address: systemAddress(text('system.address'), text('address')),
          owner: { uid: Number(values.get('system.uid')), gid: Number(values.get('system.gid')) },
        }
      : undefined,
    noImages: noImagesReason(text('daemon_mode'), text('daemon.fs_driver')),
    cleanupOnClose: on('cleanup_on_close'),
    nydusdPath: text('daemon.nydusd_path'),
    nydusdConfigPath: text('daemon.nydusd_config'),
    nydusdConfigGiven: explicit.has('daemon.nydusd_config'),
    fsDriver: text('daemon.fs_driver'),
    dedicated: isDedicated(text('daemon_mode')) && text('daemon.fs_driver') === 'fusedev',
    threads: Number(values.get('daemon.threads_number')),
    failoverPolicy: text('daemon.failover_policy'),
    // The schema knows no other word.
    recoverPolicy: text('daemon.recover_policy') as RecoverPolicy,
    // Volumes for Kata take the place of the option, as upstream has it.
    overlayHelper:
      on('snapshot.enable_nydus_overlayfs') && !on('snapshot.enable_kata_volume')
        ? text('snapshot.nydus_overlayfs_path') || 'nydus-overlayfs'
        : undefined,
    metricsAddress: parseListenAddress(text('metrics.address')),
    logLevel: text('log.level'),
    logDirectory: orDefault('log.dir', 'logs'),
    logToStdout: on('log.log_to_stdout'),
    syncRemove: on('snapshot.sync_remove'),
    alwaysVolatile: on('snapshot.enable_overlayfs_volatile'),
    cacheDirectory: orDefault('cache_manager.cache_dir', 'cache'),
    warnings: [
      ...[...explicit].flatMap(([key, value]) => warningOf(key, value, text('daemon.fs_driver'))),
      ...ineffective.map(flag => `${flag} has no effect`),
    ],
  }
}

/** A part that is not built is worth a word only where its value asks for something. */
function warningOf(key: ConfigKeyName, value: ConfigValue, driver: string): string[] {
  const spec: ConfigKey = configKey(key)
  if (key === 'daemon_mode') {
    const shared = value === 'none' || value === 'shared' || (driver === 'fusedev' && isDedicated(value))
    return shared ? [] : [`daemon_mode ${JSON.stringify(value)} is served by one shared nydusd`]
  }
  if (key === 'daemon.recover_policy' && value !== 'failover' && driver !== 'fusedev') {
    return [`${key} ${JSON.stringify(value)} holds for fusedev: a kernel path always does what failover does`]
  }
  if (key === 'daemon.fs_driver') {
    const reason = noImagesReason('shared', String(value))
    return reason === undefined ? [] : [`lazily read images cannot be mounted: ${reason}`]
  }
  if (spec.effect === undefined || value === spec.default) return []
  return [
    spec.effect === 'later'
      ? `${key} has no effect yet: its part comes with a later release`
      : `${key} has no effect`,
  ]
}

const BUILT_DRIVERS: ReadonlySet<string> = new Set(['auto', 'fscache', 'fanotify', 'fusedev'])

/** Upstream's two words for one nydusd an image. */
function isDedicated(mode: ConfigValue): boolean {
  return mode === 'dedicated' || mode === 'multiple'
}

/** `host:port`, `[v6]:port` or `:port`; `undefined` for what is none, and for nothing. */
function parseListenAddress(text: string): ListenAddress | undefined {
  const [, v6, host = v6 ?? '', port] = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(text) ?? []
  return port === undefined || Number(port) > 65_535 ? undefined : { host, port: Number(port) }
}

/** Beside the gRPC socket, where upstream's default is too: several snapshotters have one each. */
function systemAddress(address: string, grpcAddress: string): string {
  return path.resolve(address === '' ? path.join(path.dirname(grpcAddress), 'system.sock') : address)
}

function noImagesReason(mode: string, driver: string): string | undefined {
  if (mode === 'none') return 'daemon_mode none starts no nydusd, use shared'
  if (!BUILT_DRIVERS.has(driver))
    return `fs_driver ${driver} comes with a later release, use auto, fscache, fanotify or fusedev`
  return undefined
}

// The package is CommonJS: its class is the default export's own default under some loaders.
const Validator = FastestValidator.default ?? FastestValidator
const validate = new Validator({ haltOnFirstError: false, useNewCustomCheckerFunction: true }).compile(
  schema(),
)

/** Type, range and word of each key, and what holds between them. */
function problemsOf(values: ReadonlyMap<ConfigKeyName, ConfigValue>): string[] {
  const result = validate(Object.fromEntries(values))
  if (result instanceof Promise) throw new Error('no rule of the schema is asynchronous')
  const problems = result === true ? [] : result.map(({ message }) => message ?? '')
  const text = (key: ConfigKeyName): string => String(values.get(key))
  const rootBytes = Buffer.byteLength(text('root'))
  if (rootBytes === 0) problems.push('root is empty: name the state directory')
  if (rootBytes > ROOT_MAX_BYTES)
    problems.push(
      `root directory path is too long: ${rootBytes} bytes, at most ${ROOT_MAX_BYTES} fit into socket paths`,
    )
  if (/[,:\\\n]/.test(text('root')))
    problems.push('root contains a comma, colon, backslash or newline, which mount options cannot hold')
  const addressBytes = Buffer.byteLength(path.resolve(text('address')))
  if (text('address') === '') problems.push('address is empty: name the socket')
  else if (addressBytes > SOCKET_MAX_BYTES)
    problems.push(
      `address is too long: ${addressBytes} bytes, a socket's path has at most ${SOCKET_MAX_BYTES}`,
    )
  const systemBytes = Buffer.byteLength(systemAddress(text('system.address'), text('address')))
  if (values.get('system.enable') === true && systemBytes > SOCKET_MAX_BYTES)
    problems.push(
      `system.address is too long: ${systemBytes} bytes, a socket's path has at most ${SOCKET_MAX_BYTES}`,
    )
  if (values.get('image.validate_signature') === true && !isFile(text('image.public_key_file')))
    problems.push('image.validate_signature needs a file in image.public_key_file')
  if (
    values.get('remote.auth.enable_cri_keychain') === true &&
    values.get('remote.auth.enable_kubeconfig_keychain') === true
  )
    problems.push('remote.auth.enable_cri_keychain and .enable_kubeconfig_keychain exclude each other')
  if (
    values.get('remote.auth.enable_kubelet_credential_providers') === true &&
    (text('remote.auth.credential_provider_config') === '' ||
      text('remote.auth.credential_provider_bin_dir') === '')
  )
    problems.push(
      'remote.auth.enable_kubelet_credential_providers needs .credential_provider_config and .credential_provider_bin_dir',
    )
  const metrics = text('metrics.address')
  if (metrics !== '' && !parseListenAddress(metrics))
    problems.push(`metrics.address ${JSON.stringify(metrics)} is no address such as :9110 or 127.0.0.1:9110`)
  const mirrors = text('remote.mirrors_config.dir')
  if (mirrors !== '' && !statSync(mirrors, { throwIfNoEntry: false })?.isDirectory())
    problems.push(`remote.mirrors_config.dir ${mirrors} is no directory`)
  return problems
}

function isFile(file: string): boolean {
  return file !== '' && statSync(file, { throwIfNoEntry: false })?.isFile() === true
}

function schema(): ValidationSchema {
  return Object.fromEntries(
    Object.keys(CONFIG_KEYS)
      .filter(isConfigKey)
      .map(key => [key, ruleOf(configKey(key))]),
  )
}

function ruleOf(spec: ConfigKey): ValidationRule {
  switch (spec.type) {
    case 'string':
      return { type: 'string', messages: { string: '{field} is {actual}, not text' } }
    case 'bool':
      return { type: 'boolean', messages: { boolean: '{field} is {actual}, not true or false' } }
    case 'enum':
      return {
        type: 'enum',
        values: [...spec.values],
        messages: { enumValue: '{field} is {actual}, not one of {expected}' },
      }
    case 'int':
      return {
        type: 'number',
        integer: true,
        min: 0,
        max: spec.max ?? Number.MAX_SAFE_INTEGER,
        messages: {
          number: '{field} is {actual}, not a number',
          numberInteger: '{field} is {actual}, not a whole number',
          numberMin: '{field} is {actual}, less than {expected}',
          numberMax: '{field} is {actual}, more than {expected}',
        },
      }
    case 'duration':
      return {
        type: 'any',
        custom: checkDuration,
        messages: { duration: '{field} is {actual}, not a duration such as 24h or 1m30s' },
      }
  }
}

function checkDuration(value: unknown, errors: { type: string; actual?: unknown }[]): unknown {
  const durationMs = typeof value === 'string' ? parseDurationMs(value) : undefined
  if (durationMs === undefined || durationMs < 0) errors.push({ type: 'duration', actual: value })
  return value
}
