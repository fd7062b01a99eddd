import { execFile } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'

const repo = path.resolve(import.meta.dirname, '../../../..')
const script = path.join(repo, 'scripts/kernel-check.sh')

interface Outcome {
  code: number
  stdout: string
  stderr: string
}
interface Report {
  kernel: string
  drivers: Record<'fscache' | 'fanotify' | 'fusedev', boolean>
  fuse: {
    state: 'available' | 'unloaded' | 'absent' | 'unknown'
    device: boolean
    /** At least; null before 7.31. */
    protocolMinor: number | null
    resend: boolean
    idmap: boolean
    /** Null: the configuration cannot be read. */
    passthrough: boolean | null
  }
  exitCode: number
  checks: { check: string; status: string; detail: string; hint: string }[]
}

const check = (...args: string[]): Promise<Outcome> =>
  new Promise(resolve => {
    execFile('sh', [script, ...args], (err, stdout, stderr) => {
      resolve({ code: err ? Number(err.code) : 0, stdout, stderr })
    })
  })

/** A machine, as /proc and its neighbours show it. */
interface Machine {
  release: string
  /** Lines of the kernel's configuration; absent: nowhere to be read. */
  config?: string[]
  configAt?: 'proc' | 'boot'
  filesystems?: string[]
  misc?: string[]
  symbols?: string[]
  devices?: string[]
  uid?: number
  capabilities?: string
  uidMap?: string
  /** File system, mount options and superblock options of the cache directory's mount. */
  cache?: [type: string, options: string, superOptions: string]
}

const CACHE_DIR = '/var/lib/containerd/cache dir'
const ROOT_CAPABILITIES = '000001ffffffffff'

function sysroot(machine: Machine): string {
  const root = t.testdir()
  const write = (name: string, content: string | Buffer): void => {
    fs.mkdirSync(path.dirname(path.join(root, name)), { recursive: true })
    fs.writeFileSync(path.join(root, name), content)
  }
  write('proc/sys/kernel/osrelease', `${machine.release}\n`)
  const config = machine.config?.join('\n')
  if (config !== undefined && machine.configAt === 'boot') write(`boot/config-${machine.release}`, config)
  else if (config !== undefined) write('proc/config.gz', gzipSync(config))
  write('proc/filesystems', (machine.filesystems ?? []).map(name => `nodev\t${name}\n`).join(''))
  write('proc/misc', (machine.misc ?? []).map((name, i) => `${String(i + 100)} ${name}\n`).join(''))
  if (machine.symbols) {
    write('proc/kallsyms', machine.symbols.map(name => `0000000000000000 T ${name}\n`).join(''))
  }
  for (const name of machine.devices ?? []) write(`dev/${name}`, '')
  const capabilities = machine.capabilities ?? ROOT_CAPABILITIES
  const uid = `Uid:\t${[0, 0, 0, 0].fill(machine.uid ?? 0).join('\t')}`
  write('proc/self/status', `Name:\tsh\n${uid}\nCapEff:\t${capabilities}\nSeccomp:\t0\n`)
  write('proc/self/uid_map', machine.uidMap ?? '         0          0 4294967295\n')
  const [type, options, superOptions] = machine.cache ?? ['ext4', 'rw,relatime', 'rw']
  write(
    'proc/self/mountinfo',
    '20 1 8:1 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a\n' +
      '21 20 8:2 / /var/lib rw,relatime shared:2 - tmpfs tmpfs rw\n' +
      `22 21 8:3 / /var/lib/containerd/cache\\040dir ${options} shared:3 - ${type} /dev/sda3 ${superOptions}\n` +
      '23 20 8:4 / /var/lib/containerd/cac rw - tmpfs tmpfs rw\n',
  )
  fs.mkdirSync(path.join(root, CACHE_DIR), { recursive: true })
  return root
}

async function report(machine: Machine, cacheDir = `${CACHE_DIR}/not/yet`): Promise<Report> {
  const root = sysroot(machine)
  const json = await check('--json', '--sysroot', root, '--cache-dir', cacheDir)
  const parsed = JSON.parse(json.stdout) as Report
  t.equal(json.code, parsed.exitCode, 'the exit code is the one in the JSON')
  // The words carry the same as the JSON.
  const words = await check('--sysroot', root, '--cache-dir', cacheDir)
  t.equal(words.code, json.code)
  t.strictSame(
    words.stdout.trimEnd().split('\n'),
    parsed.checks.map(c => `check=${c.check} status=${c.status} detail="${c.detail}" hint="${c.hint}"`),
  )
  return parsed
}
const of = (parsed: Report, name: string): Report['checks'][number] => {
  const found = parsed.checks.find(c => c.check === name)
  if (!found) throw new Error(`no check ${name}`)
  return found
}

const on = (...names: string[]): string[] => names.map(name => `CONFIG_${name}=y`)
const modern: Machine = {
  release: '6.18.3',
  config: [
    ...on('EROFS_FS', 'EROFS_FS_BACKED_BY_FILE', 'EROFS_FS_ONDEMAND', 'CACHEFILES', 'CACHEFILES_ONDEMAND'),
    ...on('FANOTIFY', 'FANOTIFY_ACCESS_PERMISSIONS', 'FUSE_FS', 'VIRTIO_FS', 'OVERLAY_FS'),
  ],
  filesystems: ['ext4', 'erofs', 'overlay', 'fuse', 'virtiofs'],
  misc: ['fuse', 'cachefiles'],
  devices: ['fuse', 'cachefiles'],
}
const debian12: Machine = {
  release: '6.1.0-50-amd64',
  configAt: 'boot',
  config: [
    'CONFIG_EROFS_FS=m',
    '# CONFIG_EROFS_FS_ONDEMAND is not set',
    'CONFIG_CACHEFILES=m',
    '# CONFIG_CACHEFILES_ONDEMAND is not set',
    'CONFIG_FANOTIFY=y',
    'CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y',
    'CONFIG_FUSE_FS=m',
    'CONFIG_VIRTIO_FS=m',
    'CONFIG_OVERLAY_FS=m',
  ],
  filesystems: ['ext4', 'overlay'],
  misc: ['cachefiles'],
  devices: ['cachefiles'],
}

t.test('a 6.18 kernel with everything', async t => {
  const all = await report(modern)
  t.strictSame(all.drivers, { fscache: true, fanotify: true, fusedev: true })
  t.equal(all.exitCode, 0)
  t.equal(all.kernel, '6.18.3')
  t.match(of(all, 'cache-dir').detail, `${CACHE_DIR} is on ext4`, 'nearest existing parent, its own mount')
  t.notOk(
    all.checks.some(c => c.status !== 'ok'),
    'nothing to remark',
  )
})

t.test('the kernel of vm-tests: fscache, not fanotify', async t => {
  const config = fs.readFileSync(path.join(repo, 'vm-tests/kernels/fscache.config'), 'utf8').split('\n')
  const vm = await report({ ...modern, release: '6.12.117', config })
  t.strictSame(vm.drivers, { fscache: true, fanotify: false, fusedev: true })
  t.equal(vm.exitCode, 0)
  t.match(of(vm, 'fanotify'), { status: 'fail', detail: /6\.12 is older than 6\.14/ })

  const newer = await report({ ...modern, config })
  t.match(of(newer, 'fanotify').detail, /CONFIG_EROFS_FS_BACKED_BY_FILE is off.*ACCESS_PERMISSIONS is off/)
  t.match(of(newer, 'fanotify').hint, /CONFIG_EROFS_FS_BACKED_BY_FILE=y.*ACCESS_PERMISSIONS=y/)
})

t.test("Debian 12's own kernel: FUSE only, as a module", async t => {
  const stock = await report(debian12)
  t.strictSame(stock.drivers, { fscache: false, fanotify: false, fusedev: true })
  t.equal(stock.exitCode, 4)
  t.match(of(stock, 'config').detail, '/boot/config-6.1.0-50-amd64')
  t.match(of(stock, 'fscache'), {
    detail: /CACHEFILES_ONDEMAND is off/,
    hint: /CONFIG_EROFS_FS_ONDEMAND=y/,
  })
  t.match(of(stock, 'fusedev'), { status: 'warn', detail: /module is not loaded/, hint: /modprobe fuse/ })
  t.equal(of(stock, 'result').status, 'warn')
})

t.test('a kernel with nothing', async t => {
  const none = await report({ release: '6.18.3', config: on('EXT4_FS'), filesystems: ['ext4'] })
  t.strictSame(none.drivers, { fscache: false, fanotify: false, fusedev: false })
  t.equal(none.exitCode, 5)
  t.match(of(none, 'overlay').hint, /CONFIG_OVERLAY_FS/)
})

t.test('version gates', async t => {
  const verdicts = async (release: string): Promise<string> => {
    const { fscache, fanotify } = (await report({ ...modern, release })).drivers
    return `${fscache ? 'fscache' : '-'} ${fanotify ? 'fanotify' : '-'}`
  }
  t.equal(await verdicts('5.18.19'), '- -')
  t.equal(await verdicts('5.19.0'), 'fscache -')
  t.equal(await verdicts('6.13.12'), 'fscache -')
  t.equal(await verdicts('6.14.0'), 'fscache fanotify')
  t.equal(await verdicts('7.1.0'), 'fscache fanotify')
  t.equal(await verdicts('7.2.0-rc1'), '- fanotify')
  t.equal(await verdicts('10.0'), '- fanotify')
  t.match(of(await report({ ...modern, release: '6.7.1' }), 'fscache'), {
    status: 'warn',
    detail: /restarted/,
  })
  t.match(of(await report({ ...modern, release: '6.14.1' }), 'fanotify'), { status: 'warn', hint: /6\.15/ })
})

t.test('the file system of the cache directory', async t => {
  const verdicts = async (...cache: NonNullable<Machine['cache']>): Promise<boolean[]> => {
    const { fscache, fanotify } = (await report({ ...modern, cache })).drivers
    return [fscache, fanotify]
  }
  t.strictSame(await verdicts('xfs', 'rw', 'rw'), [true, true])
  t.strictSame(await verdicts('btrfs', 'rw', 'rw'), [true, true])
  t.strictSame(await verdicts('f2fs', 'rw', 'rw'), [true, false])
  t.strictSame(await verdicts('tmpfs', 'rw', 'rw'), [false, false])
  t.strictSame(await verdicts('ext4', 'ro,relatime', 'rw'), [false, false])
  t.strictSame(await verdicts('ext4', 'rw', 'ro'), [false, false], 'a read-only superblock')
  t.strictSame(await verdicts('ext4', 'rw', 'rw,nouser_xattr'), [false, true])
  t.strictSame(await verdicts('ext4', 'rw,idmapped', 'rw'), [false, true])
  const overlay = await report(modern, '/opt/cache')
  t.equal(of(overlay, 'cache-dir').detail, '/ is on overlay')
  t.match(of(overlay, 'fanotify').hint, /--cache-dir/)
  t.equal(overlay.exitCode, 4)
})

t.test('privilege', async t => {
  const user = await report({ ...modern, uid: 1000, capabilities: '0000000000000000' })
  t.match(of(user, 'privilege'), { status: 'warn', detail: /not run as root/ })
  t.equal(user.exitCode, 0, 'judged for root')
  const bare = await report({ ...modern, capabilities: '00000000a80425fb' })
  t.match(of(bare, 'privilege').detail, /without CAP_SYS_ADMIN/)
  t.equal(bare.exitCode, 5)
  const userns = await report({ ...modern, uidMap: '0 100000 65536\n' })
  t.strictSame(userns.drivers, { fscache: false, fanotify: false, fusedev: true })
})

t.test('without a readable configuration: by what is loaded, and never promised unseen', async t => {
  const { config: _, ...unseen } = modern
  const symbols = [
    'do_sys_openat2',
    'cachefiles_ondemand_copen',
    'erofs_fscache_register_fs',
    'erofs_fileio_submit_bio',
    'fsnotify_pre_content',
  ]
  const loaded = await report({ ...unseen, symbols })
  t.strictSame(loaded.drivers, { fscache: true, fanotify: true, fusedev: true })
  t.equal(of(loaded, 'config').status, 'warn')
  const absent = await report({ ...unseen, symbols: ['do_sys_openat2'] })
  t.match(of(absent, 'fscache'), { status: 'warn', detail: /cannot be told/ })
  t.equal(absent.exitCode, 4)
  t.equal((await report(unseen)).exitCode, 4)
})

t.test('a device node that is missing, a module that is not loaded', async t => {
  const noNodes = await report({ ...modern, devices: [] })
  t.match(of(noNodes, 'fscache').detail, /no \/dev\/cachefiles/)
  t.match(of(noNodes, 'fusedev').detail, /no \/dev\/fuse/)
  const unloaded = await report({ ...modern, misc: ['fuse'], filesystems: ['overlay', 'fuse'] })
  t.match(of(unloaded, 'fscache'), { status: 'warn', hint: 'modprobe erofs; modprobe cachefiles' })
})

t.test('what the FUSE of a kernel offers a daemon', async t => {
  const fuse = async (machine: Partial<Machine>): Promise<Report['fuse']> =>
    (await report({ ...modern, ...machine })).fuse
  const passthrough = [...(modern.config ?? []), ...on('FUSE_PASSTHROUGH')]
  t.strictSame(await fuse({ config: passthrough }), {
    state: 'available',
    device: true,
    protocolMinor: 45,
    resend: true,
    idmap: true,
    passthrough: true,
  })
  t.strictSame((await report(debian12)).fuse, {
    state: 'unloaded',
    device: false,
    protocolMinor: 37,
    resend: false,
    idmap: false,
    passthrough: false,
  })
  t.match(await fuse({ release: '6.8.12' }), { protocolMinor: 39, resend: false })
  t.match(await fuse({ release: '6.9.0' }), { protocolMinor: 40, resend: true, idmap: false })
  t.match(await fuse({ release: '6.12.117' }), { protocolMinor: 41, idmap: true, passthrough: false })
  t.match(await fuse({ release: '4.19.0' }), { protocolMinor: null, resend: false })
  t.equal((await report({ release: '6.18.3', filesystems: ['fuse'] })).fuse.passthrough, null)

  const stock = await report(debian12)
  t.match(of(stock, 'fuse'), { status: 'warn', detail: /not loaded.*protocol 7\.37 or newer; resend.*: no;/ })
  t.match(of(stock, 'fusedev').detail, /does not send requests again/)
  t.match(of(await report({ ...modern, config: on('EXT4_FS'), filesystems: [] }), 'fuse'), {
    status: 'fail',
    hint: /CONFIG_FUSE_FS/,
  })
})

t.test('usage', async t => {
  for (const args of [
    ['--nope'],
    ['--cache-dir'],
    ['--cache-dir', 'relative'],
    ['--sysroot', '/nonexistent'],
  ]) {
    const bad = await check(...args)
    t.equal(bad.code, 2, args.join(' '))
    t.match(bad.stderr, /usage: kernel-check\.sh/)
    t.equal(bad.stdout, '')
  }
  const help = await check('--help')
  t.equal(help.code, 0)
  t.match(help.stdout, '--cache-dir DIR')
})

t.test('this machine', async t => {
  const here = await check('--json', '--cache-dir', os.tmpdir())
  const parsed = JSON.parse(here.stdout) as Report
  t.equal(parsed.kernel, os.release())
  t.equal(parsed.exitCode, here.code)
  t.ok([0, 4, 5].includes(here.code))
  t.equal(here.code === 0, parsed.drivers.fscache || parsed.drivers.fanotify)
})
