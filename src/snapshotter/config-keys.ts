/**
 * Every key of the snapshotter's TOML file, by its dotted name: type, default, meaning, and whether its part is built.
 * Names and defaults are those of containerd-nydus-grpc, so that its configuration files are read as they are.
 */

export type ConfigValue = string | number | boolean

interface KeyBase {
  readonly help: string
  /**
   * `later`: known, its part comes with a later release, and a value that asks for it is warned about.
   * `none`: read from old files and without effect, as it was in the last releases of upstream.
   */
  readonly effect?: 'later' | 'none'
}

export type ConfigKey = KeyBase &
  (
    | { readonly type: 'string' | 'duration'; readonly default: string }
    | { readonly type: 'enum'; readonly default: string; readonly values: readonly string[] }
    | { readonly type: 'int'; readonly default: number; readonly max?: number }
    | { readonly type: 'bool'; readonly default: boolean }
  )

const off = (help: string, effect?: 'later' | 'none'): ConfigKey => ({
  type: 'bool',
  default: false,
  help,
  ...(effect ? { effect } : {}),
})
const text = (help: string, value = '', effect?: 'later' | 'none'): ConfigKey => ({
  type: 'string',
  default: value,
  help,
  ...(effect ? { effect } : {}),
})

const LOG_LEVEL_NAMES = ['trace', 'debug', 'info', 'warn', 'warning', 'error', 'fatal', 'panic'] as const

export const CONFIG_KEYS = {
  root: text('state directory', '/var/lib/containerd/io.containerd.snapshotter.v1.nydus'),
  address: text('gRPC unix socket', '/run/containerd-nydus/containerd-nydus-grpc.sock'),
  uid: { type: 'int', default: 0, help: 'owner of the gRPC socket' },
  gid: { type: 'int', default: 0, help: 'group of the gRPC socket' },
  daemon_mode: {
    type: 'enum',
    default: 'shared',
    values: ['multiple', 'dedicated', 'shared', 'single', 'prefetch', 'none'],
    help: 'shared: one nydusd for all images; dedicated: one for each, with fusedev; none: no nydusd, plain images only',
  },
  cleanup_on_close: off('unmount every image and stop nydusd at shutdown'),

  'system.enable': { type: 'bool', default: true, help: 'HTTP system controller, which nydusctl asks' },
  'system.address': text('its socket, by default system.sock beside the gRPC socket'),
  'system.uid': { type: 'int', default: 0, help: 'owner of that socket' },
  'system.gid': { type: 'int', default: 0, help: 'group of that socket' },
  'system.debug.daemon_cpu_profile_duration_secs': {
    type: 'int',
    default: 0,
    help: 'sample nydusd after its start for that long',
    effect: 'later',
  },
  'system.debug.pprof_address': text('profiling server', '', 'later'),

  'metrics.address': text('Prometheus listener, as :9110'),
  'metrics.hung_io_interval': {
    type: 'duration',
    default: '10s',
    help: 'a request older than this hangs',
    effect: 'later',
  },
  'metrics.collect_interval': {
    type: 'duration',
    default: '1m',
    help: 'sampling period',
    effect: 'later',
  },

  'daemon.nydusd_path': text('nydusd to start, by default the one of this package'),
  'daemon.nydusd_config': text('JSON template of nydusd', '/etc/nydus/nydusd-config.json'),
  'daemon.nydusimage_path': text('nydus-image', '', 'none'),
  'daemon.recover_policy': {
    type: 'enum',
    default: 'failover',
    values: ['none', 'restart', 'failover'],
    help: 'after the death of nydusd with fusedev: failover, restart (new mounts only), none; kernel paths fail over',
  },
  'daemon.fs_driver': {
    type: 'enum',
    default: 'auto',
    values: ['auto', 'fscache', 'fanotify', 'fusedev', 'blockdev', 'nodev', 'proxy'],
    help: 'how images are mounted: auto, fscache (the kernel path, whichever there is), fanotify, fusedev (FUSE)',
  },
  'daemon.threads_number': {
    type: 'int',
    default: 0,
    max: 1024,
    help: 'FUSE threads of nydusd, 0: its own choice',
  },
  'daemon.log_rotation_size': {
    type: 'int',
    default: 100,
    help: 'MB per log file of nydusd',
    effect: 'later',
  },
  'daemon.failover_policy': {
    type: 'enum',
    default: 'resend',
    values: ['none', 'resend', 'flush'],
    help: 'what becomes of FUSE requests under way when nydusd dies',
  },
  'daemon.log_level': text('log level of nydusd; that of the snapshotter counts', '', 'none'),

  'cgroup.enable': off('put nydusd into a cgroup', 'later'),
  'cgroup.memory_limit': text('its memory limit', '', 'later'),

  'log.level': { type: 'enum', default: 'info', values: LOG_LEVEL_NAMES, help: 'lowest level logged' },
  'log.dir': text('directory of log files, by default <root>/logs'),
  'log.log_to_stdout': off('log to the standard stream and not to a file'),
  'log.log_rotation_max_size': { type: 'int', default: 200, help: 'MB per log file', effect: 'later' },
  'log.log_rotation_max_backups': { type: 'int', default: 5, help: 'old log files kept', effect: 'later' },
  'log.log_rotation_max_age': { type: 'int', default: 0, help: 'days they are kept', effect: 'later' },
  'log.log_rotation_local_time': {
    type: 'bool',
    default: true,
    help: 'local time in their names',
    effect: 'later',
  },
  'log.log_rotation_compress': { type: 'bool', default: true, help: 'compress them', effect: 'later' },

  'remote.convert_vpc_registry': off('map registry hosts to VPC ones', 'none'),
  'remote.skip_ssl_verify': off('do not verify certificates of registries', 'later'),
  'remote.mirrors_config.dir': text('certs.d directory of registry mirrors', '', 'later'),
  'remote.auth.enable_kubeconfig_keychain': off('credentials from Kubernetes secrets', 'later'),
  'remote.auth.kubeconfig_path': text('kubeconfig for them', '', 'later'),
  'remote.auth.enable_cri_keychain': off('credentials from CRI image pulls', 'later'),
  'remote.auth.image_service_address': text(
    'CRI image service behind',
    '/run/containerd/containerd.sock',
    'later',
  ),
  'remote.auth.enable_kubelet_credential_providers': off('credentials from kubelet plugins', 'later'),
  'remote.auth.credential_provider_config': text('their configuration', '', 'later'),
  'remote.auth.credential_provider_bin_dir': text('their executables', '', 'later'),
  'remote.auth.credential_renewal_interval': {
    type: 'duration',
    default: '0s',
    help: 'renew credentials that often',
    effect: 'later',
  },

  'snapshot.enable_nydus_overlayfs': off(
    'mounts of lazily read images tell runtimes like Kata what they are of',
  ),
  'snapshot.nydus_overlayfs_path': text('mount helper of such mounts, by default nydus-overlayfs'),
  'snapshot.enable_kata_volume': off('volume options for Kata Containers', 'later'),
  'snapshot.sync_remove': off('answer Remove after the directory is deleted'),
  'snapshot.enable_overlayfs_volatile': off('mount writable layers with volatile'),

  'image.public_key_file': text('key for bootstrap signatures', '', 'later'),
  'image.validate_signature': off('verify bootstrap signatures', 'later'),

  'cache_manager.disable': off('no cache manager', 'none'),
  'cache_manager.gc_period': {
    type: 'duration',
    default: '24h',
    help: 'period of its garbage collection',
    effect: 'none',
  },
  'cache_manager.cache_dir': text('blob cache, by default <root>/cache'),

  'experimental.enable_stargz': off('eStargz images', 'later'),
  'experimental.enable_referrer_detect': off('find nydus images by OCI referrers', 'later'),
  'experimental.enable_index_detect': off('find nydus images in the same index', 'later'),
  'experimental.enable_backend_source': off('hand nydusd its backend over HTTP', 'none'),
  'experimental.tarfs.enable_tarfs': off('tarfs', 'later'),
  'experimental.tarfs.mount_tarfs_on_host': off('mount tarfs on the host', 'later'),
  'experimental.tarfs.tarfs_hint': off('tarfs for images that hint at it', 'later'),
  'experimental.tarfs.max_concurrent_proc': {
    type: 'int',
    default: 0,
    help: 'conversions at once',
    effect: 'later',
  },
  'experimental.tarfs.export_mode': {
    type: 'enum',
    default: '',
    values: [
      '',
      'none',
      'layer_verity_only',
      'image_verity_only',
      'layer_block',
      'image_block',
      'layer_block_with_verity',
      'image_block_with_verity',
    ],
    help: 'block images of tarfs',
    effect: 'later',
  },
} as const satisfies Record<string, ConfigKey>

export type ConfigKeyName = keyof typeof CONFIG_KEYS

/** The entry of a name, typed as any entry. */
export function configKey(name: ConfigKeyName): ConfigKey {
  return CONFIG_KEYS[name]
}

export function isConfigKey(name: string): name is ConfigKeyName {
  return Object.hasOwn(CONFIG_KEYS, name)
}

/** Explicit settings by dotted name; what is not in here has its default. */
export type ConfigValues = ReadonlyMap<ConfigKeyName, ConfigValue>
