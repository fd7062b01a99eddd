/**
 * The command line of containerd-nydus-grpc: the flags of today and all those of its older releases, each mapped to the
 * configuration key that it overrides.
 */
import { Option } from 'commander'
import { commandLine } from '../common/command-line.js'
import { fault } from '../common/fault.js'
import { type ConfigKeyName, type ConfigValue, type ConfigValues, configKey } from './config-keys.js'

export interface Flags {
  /** Operand of `--config`: TOML, or in the manner of old releases nydusd's JSON. */
  readonly configPath: string | undefined
  readonly values: ConfigValues
  /** Given flags that have no part to act on, by name. */
  readonly ineffective: readonly string[]
  readonly version: boolean
}

interface FlagSpec {
  /** In commander's notation. */
  readonly flag: string
  readonly key?: ConfigKeyName
  readonly help?: string
  /** A flag that says the opposite of its key, or implies a value. */
  readonly convert?: (value: ConfigValue) => ConfigValue | undefined
}

const CONFIG = '-c, --config <path>'

/** Today's flags; they are shown in the usage. */
const CURRENT: readonly FlagSpec[] = [
  { flag: '-R, --root <path>', key: 'root' },
  { flag: '--address <path>', key: 'address' },
  { flag: '--nydus-image <path>', key: 'daemon.nydusimage_path' },
  { flag: '--nydusd <path>', key: 'daemon.nydusd_path' },
  { flag: '--nydusd-config <path>', key: 'daemon.nydusd_config' },
  { flag: '--nydus-overlayfs-path <path>', key: 'snapshot.nydus_overlayfs_path' },
  { flag: '-M, --daemon-mode <mode>', key: 'daemon_mode' },
  { flag: '--fs-driver <driver>', key: 'daemon.fs_driver' },
  { flag: '-l, --log-level <level>', key: 'log.level' },
  { flag: '--log-to-stdout [bool]', key: 'log.log_to_stdout' },
]

/** Other spellings and the flags of releases up to v0.5. */
const LEGACY: readonly FlagSpec[] = [
  { flag: '--config-path <path>', key: 'daemon.nydusd_config' },
  { flag: '-C, --cache-dir <path>', key: 'cache_manager.cache_dir' },
  { flag: '--gc-period <duration>', key: 'cache_manager.gc_period' },
  { flag: '--disable-cache-manager [bool]', key: 'cache_manager.disable' },
  { flag: '-L, --log-dir <path>', key: 'log.dir' },
  { flag: '--nydusd-path <path>', key: 'daemon.nydusd_path' },
  { flag: '--nydusimg-path <path>', key: 'daemon.nydusimage_path' },
  { flag: '--nydusd-thread-num <number>', key: 'daemon.threads_number' },
  { flag: '--daemon-backend <driver>', key: 'daemon.fs_driver' },
  { flag: '--async-remove [bool]', key: 'snapshot.sync_remove', convert: value => value !== true },
  { flag: '--sync-remove [bool]', key: 'snapshot.sync_remove' },
  { flag: '--enable-metrics [bool]' },
  { flag: '--metrics-file <path>' },
  { flag: '--metrics-address <address>', key: 'metrics.address' },
  { flag: '--enable-stargz [bool]', key: 'experimental.enable_stargz' },
  { flag: '--enable-nydus-overlayfs [bool]', key: 'snapshot.enable_nydus_overlayfs' },
  { flag: '--validate-signature [bool]', key: 'image.validate_signature' },
  { flag: '--publickey-file <path>', key: 'image.public_key_file' },
  { flag: '--convert-vpc-registry [bool]', key: 'remote.convert_vpc_registry' },
  { flag: '--cleanup-on-close [bool]', key: 'cleanup_on_close' },
  { flag: '--recover-policy <policy>', key: 'daemon.recover_policy' },
  { flag: '--kubeconfig-path <path>', key: 'remote.auth.kubeconfig_path' },
  { flag: '--enable-kubeconfig-keychain [bool]', key: 'remote.auth.enable_kubeconfig_keychain' },
  { flag: '--enable-cri-keychain [bool]', key: 'remote.auth.enable_cri_keychain' },
  { flag: '--image-service-address <path>', key: 'remote.auth.image_service_address' },
  { flag: '--api-socket <path>', key: 'system.address' },
  { flag: '--enable-system-controller [bool]', key: 'system.enable' },
  // Deprecated even then, and it won over --daemon-mode: so it is applied last.
  { flag: '--shared-daemon [bool]', key: 'daemon_mode', convert: on => (on === true ? 'shared' : undefined) },
]

/**
 * Parses the arguments after the program's name. Of a flag given twice the last counts; an empty value counts as not
 * given.
 * @throws CommanderError for an unknown flag; USAGE for a value of the wrong type
 */
export function parseFlags(name: string, argv: readonly string[]): Flags {
  const program = commandLine(name)
    .description('containerd snapshotter that reads images lazily')
    .option('--version', 'print version and exit')
    .option(CONFIG, 'TOML configuration file')
    .allowExcessArguments(false)
  for (const spec of CURRENT) program.addOption(optionOf(spec))
  for (const spec of LEGACY) program.addOption(optionOf(spec).hideHelp())
  program.parse(argv, { from: 'user' })

  const given = program.opts<Record<string, string | true | undefined>>()
  const values = new Map<ConfigKeyName, ConfigValue>()
  const ineffective: string[] = []
  // Of two spellings of one key the present one wins, as the last to be set; --shared-daemon wins over all.
  for (const spec of [...LEGACY.slice(0, -1), ...CURRENT, ...LEGACY.slice(-1)]) {
    const option = optionOf(spec)
    const raw = given[option.attributeName()]
    if (raw === undefined || raw === '') continue
    if (spec.key === undefined) {
      ineffective.push(option.long ?? spec.flag)
      continue
    }
    const value = parseValue(option.long ?? spec.flag, typeOf(spec.flag, spec.key), raw)
    const converted = spec.convert ? spec.convert(value) : value
    if (converted !== undefined) values.set(spec.key, converted)
  }
  const configPath = given['config']
  return {
    configPath: typeof configPath === 'string' && configPath !== '' ? configPath : undefined,
    values,
    ineffective,
    version: given['version'] === true,
  }
}

function optionOf({ flag, key, help }: FlagSpec): Option {
  return new Option(flag, help ?? (key === undefined ? '' : configKey(key).help))
}

/** A flag may be a switch for a key that is none. */
function typeOf(flag: string, key: ConfigKeyName): 'bool' | 'int' | 'text' {
  if (flag.endsWith('[bool]')) return 'bool'
  return configKey(key).type === 'int' ? 'int' : 'text'
}

function parseValue(flag: string, type: 'bool' | 'int' | 'text', raw: string | true): ConfigValue {
  if (type === 'bool') {
    if (raw === true || TRUE.has(raw)) return true
    if (FALSE.has(raw)) return false
    throw fault('USAGE', `${flag} takes true or false, not ${JSON.stringify(raw)}`)
  }
  if (type === 'int') {
    const value = Number(raw)
    if (Number.isSafeInteger(value)) return value
    throw fault('USAGE', `${flag} takes a whole number, not ${JSON.stringify(raw)}`)
  }
  return String(raw)
}

/** What Go's strconv.ParseBool takes. */
const TRUE: ReadonlySet<string> = new Set(['1', 't', 'T', 'true', 'TRUE', 'True'])
const FALSE: ReadonlySet<string> = new Set(['0', 'f', 'F', 'false', 'FALSE', 'False'])
