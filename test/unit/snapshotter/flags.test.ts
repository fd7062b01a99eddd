import t from 'tap'
import { parseFlags } from '../../../src/snapshotter/flags.js'

const parse = (...argv: string[]) => parseFlags('test', argv)
const valuesOf = (...argv: string[]) => Object.fromEntries(parse(...argv).values)

t.test('every flag of every release sets its key', async t => {
  const samples: [string[], Record<string, unknown>][] = [
    [['--root', '/r'], { root: '/r' }],
    [['-R', '/r'], { root: '/r' }],
    [['--root=/r'], { root: '/r' }],
    [['--address', '/s'], { address: '/s' }],
    [['--nydus-image', '/i'], { 'daemon.nydusimage_path': '/i' }],
    [['--nydusimg-path', '/i'], { 'daemon.nydusimage_path': '/i' }],
    [['--nydusd', '/d'], { 'daemon.nydusd_path': '/d' }],
    [['--nydusd-path', '/d'], { 'daemon.nydusd_path': '/d' }],
    [['--nydusd-config', '/c'], { 'daemon.nydusd_config': '/c' }],
    [['--config-path', '/c'], { 'daemon.nydusd_config': '/c' }],
    [['--nydus-overlayfs-path', '/o'], { 'snapshot.nydus_overlayfs_path': '/o' }],
    [['--daemon-mode', 'shared'], { daemon_mode: 'shared' }],
    [['-M', 'dedicated'], { daemon_mode: 'dedicated' }],
    [['--fs-driver', 'fscache'], { 'daemon.fs_driver': 'fscache' }],
    [['--daemon-backend', 'fscache'], { 'daemon.fs_driver': 'fscache' }],
    [['--log-level', 'DEBUG'], { 'log.level': 'DEBUG' }],
    [['-l', 'trace'], { 'log.level': 'trace' }],
    [['--log-to-stdout'], { 'log.log_to_stdout': true }],
    [['--log-to-stdout=false'], { 'log.log_to_stdout': false }],
    [['-C', '/c'], { 'cache_manager.cache_dir': '/c' }],
    [['--cache-dir', '/c'], { 'cache_manager.cache_dir': '/c' }],
    [['--gc-period', '12h'], { 'cache_manager.gc_period': '12h' }],
    [['--disable-cache-manager'], { 'cache_manager.disable': true }],
    [['-L', '/l'], { 'log.dir': '/l' }],
    [['--log-dir', '/l'], { 'log.dir': '/l' }],
    [['--nydusd-thread-num', '4'], { 'daemon.threads_number': 4 }],
    [['--async-remove'], { 'snapshot.sync_remove': false }],
    [['--async-remove=false'], { 'snapshot.sync_remove': true }],
    [['--sync-remove'], { 'snapshot.sync_remove': true }],
    [['--metrics-address', ':9110'], { 'metrics.address': ':9110' }],
    [['--enable-stargz'], { 'experimental.enable_stargz': true }],
    [['--enable-nydus-overlayfs'], { 'snapshot.enable_nydus_overlayfs': true }],
    [['--validate-signature'], { 'image.validate_signature': true }],
    [['--publickey-file', '/k'], { 'image.public_key_file': '/k' }],
    [['--convert-vpc-registry'], { 'remote.convert_vpc_registry': true }],
    [['--cleanup-on-close'], { cleanup_on_close: true }],
    [['--recover-policy', 'none'], { 'daemon.recover_policy': 'none' }],
    [['--kubeconfig-path', '/k'], { 'remote.auth.kubeconfig_path': '/k' }],
    [['--enable-kubeconfig-keychain'], { 'remote.auth.enable_kubeconfig_keychain': true }],
    [['--enable-cri-keychain'], { 'remote.auth.enable_cri_keychain': true }],
    [['--image-service-address', '/i'], { 'remote.auth.image_service_address': '/i' }],
    [['--api-socket', '/a'], { 'system.address': '/a' }],
    [['--enable-system-controller=0'], { 'system.enable': false }],
    [['--shared-daemon'], { daemon_mode: 'shared' }],
    [['--shared-daemon=false'], {}],
    [['--shared-daemon', '--daemon-mode', 'none'], { daemon_mode: 'shared' }],
    [['--daemon-backend', 'fusedev', '--fs-driver', 'fscache'], { 'daemon.fs_driver': 'fscache' }],
    [['--root', '/a', '--root', '/b'], { root: '/b' }],
    [['--root', ''], {}],
    [[], {}],
  ]
  for (const [argv, values] of samples) t.strictSame(valuesOf(...argv), values, argv.join(' '))
})

t.test('what is no key', async t => {
  t.equal(parse('--config', '/c.toml').configPath, '/c.toml')
  t.equal(parse('-c', '/c.toml').configPath, '/c.toml')
  t.equal(parse().configPath, undefined)
  t.equal(parse('--version').version, true)
  t.strictSame(parse('--enable-metrics', '--metrics-file', '/m').ineffective, [
    '--enable-metrics',
    '--metrics-file',
  ])
})

t.test('what is wrong', async t => {
  for (const argv of [['--rooot', '/r'], ['--root'], ['operand'], ['-z']])
    t.throws(() => parse(...argv), { name: 'CommanderError' }, argv.join(' '))
  t.throws(() => parse('--rooot', '/r'), { message: /unknown option '--rooot'\n\(Did you mean --root\?\)/ })
  t.throws(() => parse('--nydusd-thread-num', 'many'), { code: 'USAGE', message: /--nydusd-thread-num/ })
  t.throws(() => parse('--sync-remove=perhaps'), { code: 'USAGE', message: /true or false/ })
})
