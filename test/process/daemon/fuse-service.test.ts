/**
 * Images through one FUSE mount of a real nydusd: every form, cold and warm, a registry that is down, what the API
 * refuses, and how the daemon ends.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { findMount } from '../../../src/native/mount-table.js'
import { buildForms, seeImage, type BuiltForm } from '../../helpers/built-forms.js'
import { runProgram } from '../../helpers/command-line.js'
import {
  type FuseDaemon,
  mountCommand,
  publishForm,
  runReader,
  startFuseDaemon,
  sumTree,
  writeForm,
} from '../../helpers/fuse-daemon.js'
import { fuseMissing } from '../../helpers/fuse-serving.js'
import { fixturesDirectory, rafsImages } from '../../helpers/rafs-fixtures.js'
import { scratch } from '../../helpers/scratch.js'
import { checkTree, fanotifyMissing } from '../../helpers/supervised.js'

const skip = fuseMissing
const fixtures = fixturesDirectory()
const forms = skip === false ? await buildForms() : []
const form = (name: string): BuiltForm => forms.find(form => form.name === name)!

async function expectedOf(form: BuiltForm): Promise<Map<string, string>> {
  return (await seeImage(loadImage(new MemorySource(form.bootstrap)), form.blobs)).contents
}

/** Without the slashes that the two ways of walking put in front. */
const clean = (sums: Map<string, string>): [string, string][] =>
  [...sums].map(([path, sum]): [string, string] => [path.replace(/^[./]+/, ''), sum]).sort()

/** A daemon and one image below `/app`, its blobs on a registry of ours. */
async function serveFromRegistry(t: Test, rafs = {}) {
  const directory = scratch(t)
  const image = form('v6 zstd')
  const { registry, backend } = await publishForm(t, image, { retry_limit: 1 })
  const { bootstrap } = writeForm(directory, image)
  const daemon = await startFuseDaemon(t, directory)
  const command = mountCommand(bootstrap, { backend, cache: join(directory, 'cache'), rafs })
  await daemon.client.mount('/app', command)
  return { daemon, registry, command, directory, image, root: join(daemon.mountpoint, 'app') }
}

t.test('every form of the builder, side by side, cold and warm', { skip }, async t => {
  const directory = scratch(t)
  const daemon = await startFuseDaemon(t, directory)
  for (const form of forms) {
    const path = `/${form.name.replaceAll(' ', '-')}`
    const { bootstrap, blobs } = writeForm(join(directory, path), form)
    const command = mountCommand(bootstrap, { blobs, cache: join(directory, 'cache', path) })
    const expected = clean(await expectedOf(form))
    await daemon.client.mount(path, command)
    t.strictSame(clean(await sumTree(daemon.mountpoint + path)), expected, `${form.name}, cold`)
    await daemon.client.umount(path)
    const names = (await runReader('ls', daemon.mountpoint)).split('\n')
    t.notOk(names.includes(path.slice(1)), 'its name is gone')
    // Warm: its blobs are gone.
    rmSync(blobs, { recursive: true })
    await daemon.client.mount(path, command)
    t.strictSame(clean(await sumTree(daemon.mountpoint + path)), expected, `${form.name}, warm`)
  }
  t.equal(Object.keys((await daemon.client.info()).backend_collection ?? {}).length, forms.length)
})

t.test(
  'every form of the reference tools, whole trees',
  { skip: skip || (fixtures === undefined ? 'needs the shared fixtures' : false) },
  async t => {
    const directory = scratch(t)
    const daemon = await startFuseDaemon(t, directory)
    for (const image of [...rafsImages(fixtures!, 'v6'), ...rafsImages(fixtures!, 'v5')]) {
      const cache = join(directory, 'cache', image.name)
      await daemon.client.mount(
        `/${image.name}`,
        mountCommand(image.bootstrap, { blobs: image.blobs, cache }),
      )
      const said = await checkTree(fixtures!, join(daemon.mountpoint, image.name))
      t.match(said, /^1684 entries, 0 differences/, image.name)
    }
  },
)

t.test('a registry that is down is EIO after the retries, names are still seen', { skip }, async t => {
  const { registry, root, image } = await serveFromRegistry(t)
  await registry.stop()
  await t.rejects(runReader('cat', `${root}/dir/raw`), /Input\/output error/)
  t.match(await runReader('ls', '-lR', root), /several-chunks/)
  t.equal(await runReader('readlink', `${root}/link`), 'dir/several-chunks\n')
  await registry.start()
  let sums: Map<string, string> | undefined
  // A chunk that just failed fails at once for about a second: until a read gets through.
  for (const began = Date.now(); !sums && Date.now() - began < 30_000;)
    sums = await sumTree(root).catch(() => undefined)
  t.strictSame(clean(sums ?? new Map<string, string>()), clean(await expectedOf(image)))
})

t.test('what is prefetched needs no registry any more', { skip }, async t => {
  const { daemon, registry, root, image } = await serveFromRegistry(t, {
    prefetch: { enable: true, prefetch_all: true },
  })
  // Until it is complete: the daemon says so.
  for (const began = Date.now(); Date.now() - began < 30_000;)
    if ((await daemon.client.blobcache('/app')).data_all_ready) break
  await registry.stop()
  t.strictSame(clean(await sumTree(root)), clean(await expectedOf(image)))
})

t.test(
  'a list of files is prefetched instead of the list of the image, and nothing else',
  { skip },
  async t => {
    const { daemon, registry, command, root } = await serveFromRegistry(t)
    await daemon.client.umount('/app')
    const config = JSON.parse(command.config) as { rafs: object }
    const rafs = { mode: 'direct', prefetch: { enable: true } }
    await daemon.client.mount('/app', {
      ...command,
      config: JSON.stringify({ ...config, rafs }),
      prefetch_files: ['/same', '/missing'],
    })
    const ended = (): boolean => daemon.log().some(({ msg }) => msg === 'prefetch ended')
    for (const began = Date.now(); !ended() && Date.now() - began < 30_000;) await daemon.client.info()
    await registry.stop()
    t.equal((await runReader('cat', `${root}/same`)).length, 4096)
    await t.rejects(runReader('cat', `${root}/dir/raw`), /Input\/output error/)
  },
)

t.test('credentials that change while it serves', { skip }, async t => {
  const directory = scratch(t)
  const image = form('v6 lz4')
  const auth = { username: 'me', password: 'secret', method: 'basic' as const }
  const { bootstrap } = writeForm(directory, image)
  const base64 = (text: string): string => Buffer.from(text).toString('base64')
  const { backend } = await publishForm(t, image, { auth: base64('me:wrong') }, { auth })
  const daemon = await startFuseDaemon(t, directory)
  await daemon.client.mount('/', mountCommand(bootstrap, { backend, cache: join(directory, 'cache') }))
  await t.rejects(runReader('cat', join(daemon.mountpoint, 'dir/raw')), /Input\/output error/)
  await daemon.client.putSettings('/', { registry_auth: base64('me:secret') })
  let sums: Map<string, string> | undefined
  for (const began = Date.now(); !sums && Date.now() - began < 30_000;)
    sums = await sumTree(daemon.mountpoint).catch(() => undefined)
  t.strictSame(clean(sums ?? new Map<string, string>()), clean(await expectedOf(image)))
  t.notMatch(JSON.stringify(daemon.log()), new RegExp(base64('me:secret')), 'no secret in the log')
})

t.test('what the API refuses', { skip }, async t => {
  const directory = scratch(t)
  const { bootstrap, blobs } = writeForm(directory, form('v6 none sha256'))
  const cache = join(directory, 'cache')
  const command = mountCommand(bootstrap, { blobs, cache })
  const { client } = await startFuseDaemon(t, directory)
  await client.mount('/a/b', command)
  const config = JSON.parse(command.config) as { cache: object }
  const changed = (more: object): string => JSON.stringify({ ...config, ...more })
  await t.rejects(client.mount('/a/b', command), { code: 'INSTANCE_EXISTS', message: /already exists/ })
  await t.rejects(client.mount('/a/b/../b', command), { code: 'INSTANCE_EXISTS' })
  await t.rejects(client.umount('/nothing'), { code: 'INSTANCE_UNKNOWN', message: /doesn't exist/ })
  await t.rejects(client.remount('/nothing', command), { code: 'INSTANCE_UNKNOWN' })
  await t.rejects(client.mount('relative', command), { code: 'CONFIG_INVALID' })
  await t.rejects(client.mount('/c', { ...command, fs_type: 'ext4' }), { code: 'CONFIG_INVALID' })
  await t.rejects(client.mount('/c', { ...command, fs_type: 'passthrough_fs' }), { code: 'UNIMPLEMENTED' })
  await t.rejects(client.mount('/c', { ...command, prefetch_files: ['x'] }), { code: 'CONFIG_INVALID' })
  await t.rejects(client.mount('/c', { ...command, source: `${bootstrap}.not` }), { code: 'FILE_MISSING' })
  await t.rejects(client.mount('/c', { ...command, source: directory }), { code: 'FILE_UNREADABLE' })
  await t.rejects(client.mount('/c', { ...command, config: '{' }), { code: 'CONFIG_INVALID' })
  const encrypted = { ...config.cache, filecache: { work_dir: cache, enable_encryption: true } }
  const secret = { ...command, config: changed({ cache: encrypted }) }
  await t.rejects(client.mount('/c', secret), { code: 'UNIMPLEMENTED', message: /enable_encryption/ })
  const overlay = { upper_dir: '/u', work_dir: '/w' }
  await t.rejects(client.mount('/c', { ...command, config: changed({ overlay }) }), { code: 'UNIMPLEMENTED' })
  t.same(Object.keys((await client.info()).backend_collection ?? {}), ['/a/b'])
})

t.test('another image in the place of one', { skip }, async t => {
  const directory = scratch(t)
  const before = form('v6 zstd')
  const after = form('v6 lz4')
  const one = writeForm(join(directory, 'one'), before)
  const two = writeForm(join(directory, 'two'), after)
  const cache = join(directory, 'cache')
  const daemon = await startFuseDaemon(t, directory)
  await daemon.client.mount('/app', mountCommand(one.bootstrap, { blobs: one.blobs, cache }))
  await sumTree(daemon.mountpoint)
  await daemon.client.remount('/app', mountCommand(two.bootstrap, { blobs: two.blobs, cache }))
  t.strictSame(clean(await sumTree(join(daemon.mountpoint, 'app'))), clean(await expectedOf(after)))
  const cached = mountCommand(two.bootstrap, { blobs: two.blobs, cache, rafs: { mode: 'cached' } })
  await daemon.client.umount('/app')
  await daemon.client.mount('/app', cached)
  await t.rejects(daemon.client.remount('/app', cached), { code: 'UNIMPLEMENTED' })
})

t.test('a mount without a cache gets one of its own, which goes with it', { skip }, async t => {
  const directory = scratch(t)
  const { bootstrap, blobs } = writeForm(directory, form('v6 zstd'))
  const daemon = await startFuseDaemon(t, directory)
  await daemon.client.mount('/', mountCommand(bootstrap, { blobs }))
  t.strictSame(clean(await sumTree(daemon.mountpoint)), clean(await expectedOf(form('v6 zstd'))))
  const warned = daemon.log().find(({ msg }) => /no cache is configured/.test(String(msg)))
  const own = String(warned?.['directory'])
  t.ok(readdirSync(own).length > 0)
  await daemon.client.umount('/')
  t.throws(() => readdirSync(own), { code: 'ENOENT' })
})

t.test('a bootstrap that is cut under the daemon: an error, or what is right', { skip }, async t => {
  const directory = scratch(t)
  const image = form('v6 zstd')
  const { bootstrap, blobs } = writeForm(directory, image)
  const daemon = await startFuseDaemon(t, directory)
  await daemon.client.mount('/', mountCommand(bootstrap, { blobs, cache: join(directory, 'cache') }))
  const { size } = statSync(bootstrap)
  truncateSync(bootstrap, 4096)
  const said = await runReader('sh', '-c', `ls -lR ${daemon.mountpoint} >/dev/null 2>&1; echo $?`)
  t.not(said.trim(), '0', 'what is gone cannot be listed')
  // Overwritten in place, with noise.
  writeFileSync(bootstrap, Buffer.alloc(size, 0xa5))
  await runReader('sh', '-c', `find ${daemon.mountpoint} -type f -exec cat {} + >/dev/null 2>&1; true`)
  t.equal((await daemon.client.info()).state, 'RUNNING')
  t.equal(daemon.process.exitCode, null)
  writeFileSync(bootstrap, image.bootstrap)
  await daemon.client.umount('/')
  await daemon.client.mount('/', mountCommand(bootstrap, { blobs, cache: join(directory, 'cache') }))
  t.strictSame(clean(await sumTree(daemon.mountpoint)), clean(await expectedOf(image)))
})

t.test('from the command line, with a directory of blobs', { skip }, async t => {
  const directory = scratch(t)
  const image = form('v6 zstd batch')
  const { bootstrap, blobs } = writeForm(directory, image)
  const list = join(directory, 'list')
  writeFileSync(list, '/dir\n\n  /same\n')
  const args = ['--bootstrap', bootstrap, '--localfs-dir', blobs, '--prefetch-files', list]
  args.push('--virtual-mountpoint', '/deep/er', '--thread-num', '2', '--hybrid-mode')
  const daemon = await startFuseDaemon(t, directory, { args })
  const expected = clean(await expectedOf(image))
  t.strictSame(clean(await sumTree(join(daemon.mountpoint, 'deep/er'))), expected)
  const second = await runProgram(t, 'nydusd', ['-M', daemon.mountpoint])
  t.match(second.stderr, /MOUNTPOINT_IN_USE/)
  t.equal(second.code, 6)
  t.strictSame(clean(await sumTree(join(daemon.mountpoint, 'deep/er'))), expected, 'and the first goes on')
})

t.test('how it ends', { skip }, async t => {
  const start = async (t: Test): Promise<FuseDaemon> => {
    const directory = scratch(t)
    const { bootstrap, blobs } = writeForm(directory, form('v6 zstd'))
    return startFuseDaemon(t, directory, { args: ['-B', bootstrap, '-D', blobs] })
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    await t.test(`${signal} unmounts, also what is in use`, async t => {
      const daemon = await start(t)
      await startUser(t, daemon.mountpoint)
      daemon.process.kill(signal)
      t.equal(await daemon.ended, 0)
      t.equal(findMount(daemon.mountpoint), undefined)
      t.same(readdirSync(join(daemon.directory, 'run')), [], 'socket and state are gone')
    })
  }
  await t.test('unmounted by somebody else', async t => {
    const daemon = await start(t)
    execFileSync('umount', [daemon.mountpoint])
    t.equal(await daemon.ended, 0)
  })
  await t.test('told to exit it leaves the mount', async t => {
    const daemon = await start(t)
    await daemon.client.exit()
    t.equal(await daemon.ended, 0)
    t.equal(findMount(daemon.mountpoint)?.fsType, 'fuse')
    t.ok(readdirSync(join(daemon.directory, 'run')).includes('api.fuse'), 'the state stays')
  })
})

/** A process whose working directory is the mount. */
async function startUser(t: Test, directory: string): Promise<void> {
  const child = spawn('sh', ['-c', 'echo in; read line'], {
    cwd: directory,
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
}

t.test('no /dev/fuse', { skip }, async t => {
  const directory = scratch(t)
  const nodes = 'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec "$@"'
  const wrapper = ['unshare', '-m', 'sh', '-c', nodes, 'sh']
  await t.rejects(startFuseDaemon(t, directory, { wrapper }), /there is no \/dev\/fuse.*FUSE_UNAVAILABLE/)
})

t.test('beside a kernel path, over the same cache', { skip: skip || fanotifyMissing }, async t => {
  const directory = scratch(t)
  const cache = join(directory, 'cache')
  mkdirSync(cache)
  const { bootstrap, blobs } = writeForm(directory, form('v6 zstd'))
  const daemon = await startFuseDaemon(t, directory, { service: 'singleton', args: ['--fscache', cache] })
  const { driver } = await daemon.client.info()
  t.match(driver, /^(fscache|fanotify)$/)
  t.equal(findMount(daemon.mountpoint), undefined, 'mounted with the first image')
  const entry = {
    type: 'bootstrap' as const,
    id: 'fsid',
    domain_id: 'domain',
    config: {
      id: 'fsid',
      backend_type: 'localfs',
      backend_config: { dir: blobs },
      cache_type: 'fscache',
      cache_config: {},
      metadata_path: bootstrap,
    },
  }
  await daemon.client.bind(entry)
  await daemon.client.mount('/app', mountCommand(bootstrap, { blobs, cache }))
  const names = (await daemon.client.descriptors()).map(({ name }) => name)
  t.ok(names.includes('fuse.session'), names.join())
  const expected = clean(await expectedOf(form('v6 zstd')))
  t.strictSame(clean(await sumTree(join(daemon.mountpoint, 'app'))), expected)
  const bound = await daemon.client.instance({ domainId: 'domain', id: 'fsid' })
  t.ok(
    bound.blobs.every(({ complete }) => complete),
    'what FUSE fetched the kernel path has',
  )
  await daemon.client.umount('/app')
  await daemon.client.unbind({ domainId: 'domain', id: 'fsid' })
})

const shmMissing = skip || (statfsSync('/dev/shm').type === 0x01021994 ? false : 'needs a tmpfs at /dev/shm')

t.test('where no kernel path works FUSE takes its place', { skip: shmMissing }, async t => {
  const directory = scratch(t)
  // No pre-content events on tmpfs, and no cachefiles there either.
  const cache = mkdtempSync('/dev/shm/nydus-test-')
  t.teardown(() => rmSync(cache, { recursive: true, force: true }))
  const daemon = await startFuseDaemon(t, directory, { service: 'singleton', args: ['--fscache', cache] })
  const info = await daemon.client.info()
  t.equal(info.driver, 'fuse')
  t.equal(info.passed_over?.length, 2)
  const chosen = daemon.log().filter(({ msg }) => String(msg).includes('all images are served by FUSE'))
  t.equal(chosen.length, 1)
  const { bootstrap, blobs } = writeForm(directory, form('v6 zstd'))
  await daemon.client.mount('/app', mountCommand(bootstrap, { blobs, cache }))
  const expected = clean(await expectedOf(form('v6 zstd')))
  t.strictSame(clean(await sumTree(join(daemon.mountpoint, 'app'))), expected)
  t.match(readFileSync('/proc/self/mountinfo', 'utf8'), `${daemon.mountpoint} `)
})
