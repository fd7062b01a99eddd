import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { inspect } from 'node:util'
import t, { type Test } from 'tap'
import { CONFIG_KEYS } from '../../../src/snapshotter/config-keys.js'
import { type Settings, resolveSettings } from '../../../src/snapshotter/config.js'
import { parseFlags } from '../../../src/snapshotter/flags.js'
import { scratch } from '../../helpers/scratch.js'

const resolve = (...argv: string[]): Settings => resolveSettings(parseFlags('test', argv))

function file(t: Test, text: string): string {
  const name = path.join(scratch(t), 'config.toml')
  writeFileSync(name, text)
  return name
}

t.test('defaults', async t => {
  t.strictSame(resolve(), {
    root: '/var/lib/containerd/io.containerd.snapshotter.v1.nydus',
    address: '/run/containerd-nydus/containerd-nydus-grpc.sock',
    owner: { uid: 0, gid: 0 },
    system: { address: '/run/containerd-nydus/system.sock', owner: { uid: 0, gid: 0 } },
    noImages: undefined,
    cleanupOnClose: false,
    nydusdPath: '',
    nydusdConfigPath: '/etc/nydus/nydusd-config.json',
    nydusdConfigGiven: false,
    fsDriver: 'auto',
    dedicated: false,
    threads: 0,
    failoverPolicy: 'resend',
    recoverPolicy: 'failover',
    overlayHelper: undefined,
    metricsAddress: undefined,
    logLevel: 'info',
    logDirectory: '/var/lib/containerd/io.containerd.snapshotter.v1.nydus/logs',
    logToStdout: false,
    syncRemove: false,
    alwaysVolatile: false,
    cacheDirectory: '/var/lib/containerd/io.containerd.snapshotter.v1.nydus/cache',
    warnings: [],
  })
})

t.test('a file of upstream, with what has no part here', async t => {
  const settings = resolve(
    '--config',
    file(
      t,
      `version = 1
root = "/var/lib/nydus"
address = "/run/n.sock"
daemon_mode = "dedicated"
cleanup_on_close = true
[system]
enable = true
address = "/run/containerd-nydus/system.sock"
[system.debug]
daemon_cpu_profile_duration_secs = 5
pprof_address = ""
[daemon]
nydusd_config = "/etc/nydus/other.json"
nydusd_path = "/usr/local/bin/nydusd"
nydusimage_path = "/usr/local/bin/nydus-image"
fs_driver = "fusedev"
recover_policy = "failover"
threads_number = 4
log_rotation_size = 100
[cgroup]
enable = true
memory_limit = ""
[log]
log_to_stdout = false
level = "Debug"
log_rotation_compress = true
log_rotation_local_time = true
log_rotation_max_age = 7
log_rotation_max_backups = 5
log_rotation_max_size = 100
[metrics]
address = ":9110"
[remote]
convert_vpc_registry = false
[remote.mirrors_config]
dir = ""
[remote.auth]
enable_kubeconfig_keychain = false
kubeconfig_path = ""
enable_cri_keychain = false
image_service_address = ""
[snapshot]
enable_nydus_overlayfs = false
sync_remove = true
[cache_manager]
disable = false
gc_period = "24h"
cache_dir = "/cache"
[image]
public_key_file = ""
validate_signature = false
[experimental]
enable_stargz = false
enable_referrer_detect = false
[experimental.tarfs]
enable_tarfs = false
export_mode = ""
max_concurrent_proc = 4
`,
    ),
  )
  t.match(settings, {
    root: '/var/lib/nydus',
    address: '/run/n.sock',
    system: { address: '/run/containerd-nydus/system.sock', owner: { uid: 0, gid: 0 } },
    cleanupOnClose: true,
    nydusdPath: '/usr/local/bin/nydusd',
    nydusdConfigPath: '/etc/nydus/other.json',
    nydusdConfigGiven: true,
    fsDriver: 'fusedev',
    dedicated: true,
    threads: 4,
    metricsAddress: { host: '', port: 9110 },
    logLevel: 'debug',
    syncRemove: true,
    cacheDirectory: '/cache',
    logDirectory: '/var/lib/nydus/logs',
  })
  const warned = settings.warnings.join('\n')
  for (const key of [
    'system.debug.daemon_cpu_profile_duration_secs',
    'daemon.nydusimage_path',
    'cgroup.enable',
    'log.log_rotation_max_age',
    'log.log_rotation_max_size',
  ])
    t.equal(warned.split(key).length, 2, `${key} is warned about once`)
  t.notMatch(warned, /enable_stargz|tarfs\.enable_tarfs|pprof|gc_period/, 'what asks for nothing is not')
})

t.test('the command line beats the file, and what is written out counts', async t => {
  const config = file(
    t,
    `version = 1
root = "/file"
[log]
log_to_stdout = true
log_rotation_compress = false
log_rotation_max_size = 0
[metrics]
hung_io_interval = "0s"
[snapshot]
sync_remove = true
`,
  )
  const settings = resolve(
    '--config',
    config,
    '--root',
    '/flag',
    '--log-to-stdout=false',
    '--sync-remove=false',
  )
  t.match(settings, { root: '/flag', logToStdout: false, syncRemove: false })
  t.match(settings.warnings.join('\n'), /log_rotation_compress[^]*log_rotation_max_size[^]*hung_io_interval/)
})

t.test('--config may name the JSON of nydusd', async t => {
  const json = path.join(scratch(t), 'nydusd.json')
  writeFileSync(json, '\n  {"device": {}}')
  t.match(resolve('--config', json), { nydusdConfigPath: json, nydusdConfigGiven: true })
  t.match(resolve('--config', json, '--nydusd-config', '/x'), { nydusdConfigPath: '/x' })
})

t.test('all problems are told at once, with what is meant', async t => {
  const config = file(
    t,
    `version = 2
root = ""
daemon_mode = "sharde"
colour = "blue"
[daemon]
fs_drivr = "fscache"
threads_number = 1025
recover_policy = 5
[snapshot]
sync_remove = "yes"
level = "info"
[metrics]
hung_io_interval = "120min"
collect_interval = "-1s"
[remote.mirrors_config]
dir = "/nowhere/at/all"
[image]
validate_signature = true
[remote.auth]
enable_cri_keychain = true
enable_kubeconfig_keychain = true
enable_kubelet_credential_providers = true
[cgroup]
enable = [1]
`,
  )
  let message = ''
  try {
    resolve('--config', config)
  } catch (err) {
    t.match(err, { code: 'CONFIG_INVALID' })
    message = String(err)
  }
  for (const part of [
    'unsupported configuration version 2',
    'root is empty',
    'daemon_mode is sharde, not one of',
    'unknown key colour',
    'unknown key daemon.fs_drivr (did you mean daemon.fs_driver?)',
    'daemon.threads_number is 1025, more than 1024',
    'daemon.recover_policy is 5',
    'snapshot.sync_remove is yes, not true or false',
    'unknown key snapshot.level (did you mean log.level?)',
    'metrics.hung_io_interval is 120min, not a duration',
    'metrics.collect_interval is -1s, not a duration',
    '/nowhere/at/all is no directory',
    'image.validate_signature needs a file',
    'exclude each other',
    'remote.auth.enable_kubelet_credential_providers needs',
    'cgroup.enable is a list',
  ])
    t.match(message, part)
})

t.test('limits of paths', async t => {
  t.throws(() => resolve('--root', `/${'r'.repeat(70)}`), { message: /root directory path is too long/ })
  t.equal(resolve('--root', `/${'r'.repeat(69)}`).root.length, 70)
  t.throws(() => resolve('--root', '/a,b'), { message: /comma/ })
  t.throws(() => resolve('--address', `/${'a'.repeat(107)}`), { message: /address is too long/ })
})

t.test('files that are none', async t => {
  t.throws(() => resolve('--config', '/nowhere/c.toml'), { code: 'CONFIG_MISSING', message: /no such file/ })
  t.throws(() => resolve('--config', '/'), { code: 'CONFIG_MISSING' })
  t.throws(() => resolve('--config', file(t, 'version = 1\nroot = /x\n')), {
    code: 'CONFIG_INVALID',
    message: /line 2, column 8/,
  })
  const secret = t.throws(() => resolve('--config', file(t, 'version = 1\npassword = s3cret!\n')))
  t.notMatch(inspect(secret, { depth: 5, showHidden: true }), 's3cret', 'an error quotes no line of the file')
  t.throws(() => resolve('--config', file(t, 'root = "/x"\n')), { message: /version/ })
})

t.test('drivers and modes without images say why', async t => {
  t.match(resolve('--daemon-mode', 'none').noImages, /daemon_mode none/)
  for (const driver of ['blockdev', 'nodev', 'proxy'])
    t.match(resolve('--daemon-backend', driver).noImages, /later release/)
  for (const driver of ['auto', 'fscache', 'fanotify', 'fusedev'])
    t.equal(resolve('--daemon-backend', driver).noImages, undefined)
})

t.test('one nydusd for all images, or one for each with fusedev', async t => {
  for (const mode of ['dedicated', 'multiple']) {
    const own = resolve('--daemon-backend', 'fusedev', '--daemon-mode', mode)
    t.match(own, { dedicated: true, warnings: [] })
    const forced = resolve('--daemon-backend', 'fscache', '--daemon-mode', mode)
    t.equal(forced.dedicated, false)
    t.match(forced.warnings, [/daemon_mode .* is served by one shared nydusd/])
  }
  t.match(resolve('--daemon-backend', 'fusedev'), { dedicated: false, warnings: [] })
  t.match(resolve('--daemon-backend', 'fusedev', '--shared-daemon', '-M', 'multiple'), { dedicated: false })
})

t.test('what tells runtimes of images', async t => {
  const snapshot = (text: string): Settings =>
    resolve('--config', file(t, `version = 1\n[snapshot]\nenable_nydus_overlayfs = true\n${text}`))
  t.equal(snapshot('').overlayHelper, 'nydus-overlayfs')
  t.equal(snapshot('nydus_overlayfs_path = "/opt/overlay"').overlayHelper, '/opt/overlay')
  t.equal(snapshot('enable_kata_volume = true').overlayHelper, undefined, 'volumes take its place')
})

t.test('where metrics are served', async t => {
  const address = (text: string): Settings['metricsAddress'] =>
    resolve('--metrics-address', text).metricsAddress
  t.strictSame(address(':9110'), { host: '', port: 9110 })
  t.strictSame(address('127.0.0.1:80'), { host: '127.0.0.1', port: 80 })
  t.strictSame(address('[::1]:80'), { host: '::1', port: 80 })
  for (const wrong of ['9110', 'host:', ':65536', 'a:b:1'])
    t.throws(() => address(wrong), { message: /metrics.address .* is no address/ })
})

t.test('every key has a default that its own rule accepts', async t => {
  const lines = ['version = 1']
  for (const [key, { default: value }] of Object.entries(CONFIG_KEYS))
    lines.push(`${key} = ${JSON.stringify(value)}`)
  t.strictSame(resolve('--config', file(t, lines.join('\n'))).warnings, [])
})
