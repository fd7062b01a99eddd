/** An image mounted by a command that serves it until it is stopped. */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { DaemonClient } from '../../../../src/client/daemon-client.js'
import type { Manifest } from '../../../../src/oci/manifest.js'
import { sha256 } from '../../../../src/common/digest.js'
import { fixedCredential } from '../../../../src/oci/credentials.js'
import { RegistryClient } from '../../../../src/oci/registry-client.js'
import { identify } from '../../../../src/supervisor/daemon-process.js'
import { readMountTable } from '../../../../src/native/mount-table.js'
import {
  type DockerRegistry,
  missingDockerRegistry,
  startDockerRegistry,
} from '../../../helpers/docker-registry.js'
import { dropPageCache, processesOf, until } from '../../../helpers/lazy-node.js'
import { type Ended, nydusify, spawnNydusify } from '../../../helpers/nydusify.js'
import { pushImage } from '../../../helpers/push-image.js'
import { rootMissing, scratch } from '../../../helpers/scratch.js'
import { kernelPathMissing } from '../../../helpers/supervised.js'
import { tarBytes } from '../../../helpers/tar-bytes.js'

const skip = rootMissing || missingDockerRegistry()
const kernelSkip = skip || kernelPathMissing()
const MIB = 1 << 20
const USER = 'tester'
const PASSWORD = 'not-to-be-written-down'

const large = Buffer.alloc(8 * MIB, 'bytes that are only there when they were fetched ')
for (let at = 0; at < large.length; at += 64) large.writeUInt32LE((at * 2654435761) >>> 0, at)
const layer = {
  bytes: gzipSync(
    tarBytes([
      { name: 'bin/', type: '5', mode: 0o755 },
      { name: 'bin/small', body: Buffer.from('small') },
      { name: 'bin/large', body: large },
      { name: 'link', type: '2', linkname: 'bin/small' },
    ]),
    { level: 1 },
  ),
}

interface Mounted {
  readonly process: ReturnType<typeof spawnNydusify>
  readonly said: string
  /** Sends the signal and waits for the end. */
  end(signal: NodeJS.Signals): Promise<Ended>
}

/** Starts a mount and waits until it says that it is there. */
async function mount(
  t: Pick<Test, 'teardown'>,
  args: string[],
  cwd: string,
  env: NodeJS.ProcessEnv = {},
): Promise<Mounted> {
  const child = spawnNydusify(['mount', ...args], { cwd, env })
  const stderr = text(child.stderr!)
  const closed = once(child, 'close')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await closed
    for (const pid of processesOf(cwd)) process.kill(pid, 'SIGKILL')
    rmSync(runDirectory(path.join(cwd, 'tmp')), { recursive: true, force: true })
  })
  const lines = createInterface({ input: child.stdout! })
  const [said = ''] = (await Promise.race([once(lines, 'line'), closed.then(() => [])])) as string[]
  if (child.exitCode !== null) throw new Error(`the mount ended with ${child.exitCode}: ${await stderr}`)
  return {
    process: child,
    said,
    end: async signal => {
      child.kill(signal)
      await closed
      return { code: child.exitCode, stdout: said, stderr: await stderr }
    },
  }
}

/** A registry with the image, plain and as nydus, and a directory to work in whose docker configuration knows it. */
async function prepare(t: Pick<Test, 'teardown'>): Promise<{
  registry: DockerRegistry
  cwd: string
  env: NodeJS.ProcessEnv
  target: string
  client: RegistryClient
}> {
  const registry = await startDockerRegistry(t, { users: { [USER]: PASSWORD } })
  const credentials = fixedCredential({ kind: 'basic', username: USER, password: PASSWORD })
  const client = new RegistryClient({ host: registry.host, credentials })
  t.teardown(() => client.close())
  await pushImage(client, 'app', 'plain', [layer])
  const docker = scratch(t)
  const auth = Buffer.from(`${USER}:${PASSWORD}`).toString('base64')
  writeFileSync(path.join(docker, 'config.json'), JSON.stringify({ auths: { [registry.host]: { auth } } }))
  const [cwd, env] = [scratch(t), { DOCKER_CONFIG: docker }]
  const target = `${registry.host}/app:nydus`
  const source = `${registry.host}/app:plain`
  const converted = await nydusify(['convert', '--source', source, '--target', target], { cwd, env })
  if (converted.code !== 0) throw new Error(converted.stderr)
  return { registry, cwd, env, target, client }
}

const mountsBelow = (directory: string): string[] =>
  readMountTable()
    .map(({ mountpoint }) => mountpoint)
    .filter(mountpoint => mountpoint.startsWith(`${directory}/`))
/** Where the daemon of a work directory has its socket. */
const runDirectory = (work: string): string => `/run/nydusify-${sha256(Buffer.from(work)).slice(7, 23)}`
const isAlive = (pid: number): boolean => identify(pid) !== undefined

async function daemonPid(cwd: string, work = 'tmp'): Promise<number> {
  const client = new DaemonClient(path.join(cwd, work, 'fs/nydus_api.sock'))
  try {
    return (await client.info()).pid
  } finally {
    await client.close()
  }
}

t.test('files come when they are read, and nothing stays', { skip: kernelSkip }, async t => {
  const { registry, cwd, env, target, client } = await prepare(t)
  const before = registry.accessLog.length
  const mounted = await mount(t, ['--target', target], cwd, env)
  t.match(mounted.said, new RegExp(`^mounted ${target} on ${cwd}/image-fs \\((fanotify|fscache)\\)`))
  const blobBytes = (): number => {
    const requests = registry.accessLog.slice(before).filter(({ path }) => path.includes(data.digest))
    return requests.reduce((sum, { bytes }) => sum + bytes, 0)
  }
  const { content } = await client.fetchManifest('app', 'nydus')
  const data = (content as Manifest).layers[0]!
  const root = path.join(cwd, 'image-fs')
  t.same(readdirSync(root).sort(), ['bin', 'link'])
  // By another process: the registry's log is read by this one.
  const read = (...args: string[]): Buffer =>
    execFileSync('dd', args, { stdio: ['ignore', 'pipe', 'ignore'], maxBuffer: 16 * MIB })
  t.equal(String(read(`if=${root}/link`)), 'small')
  // The registry's log is in order: what is in front of this request is in it.
  const answered = registry.accessLog.length
  await client.hasBlob('app', data.digest)
  await until('the registry logs the request', () =>
    registry.accessLog.slice(answered).some(({ method }) => method === 'HEAD'),
  )
  const first = blobBytes()
  t.ok(first < data.size / 2, `${first} of ${data.size} bytes were fetched for a small file`)
  t.ok(read(`if=${root}/bin/large`, 'bs=1M').equals(large))
  dropPageCache()
  t.ok(read(`if=${root}/bin/large`, 'bs=1M').equals(large), 'and again from the cache')

  const work = path.join(cwd, 'tmp')
  t.match(JSON.parse(readFileSync(path.join(work, 'nydus_manifest.json'), 'utf8')), { schemaVersion: 2 })
  t.match(JSON.parse(readFileSync(path.join(work, 'nydus_config.json'), 'utf8')), { os: 'linux' })
  const config = path.join(work, 'fs/nydusd_config.json')
  t.match(JSON.parse(readFileSync(config, 'utf8')), {
    device: { backend: { type: 'registry', config: { scheme: 'http', host: registry.host, repo: 'app' } } },
  })
  t.equal(statSync(config).mode & 0o777, 0o600)
  t.ok(statSync(path.join(work, 'nydus_bootstrap')).size > 4096)
  t.ok(readdirSync(path.join(work, 'fs/nydus_blobs')).length > 0)
  for (const word of [PASSWORD, Buffer.from(`${USER}:${PASSWORD}`).toString('base64')])
    t.equal(spawnSync('grep', ['-rlF', '-D', 'skip', word, work], { encoding: 'utf8' }).stdout, '')

  const other = await nydusify(['mount', '--target', target, '--mount-path', 'other'], { cwd, env })
  t.match(other, { code: 6, stderr: /another mount uses .*tmp: .*--work-dir/ })
  const args = ['mount', '--target', target, '--work-dir', 'work2']
  t.match(await nydusify(args, { cwd, env }), { code: 8, stderr: /erofs is mounted on .* already/ })
  t.notOk(existsSync(path.join(cwd, 'work2')))

  const pid = await daemonPid(cwd)
  t.match(await mounted.end('SIGTERM'), { code: 0, stderr: '' })
  t.same(mountsBelow(cwd), [])
  t.notOk(isAlive(pid), 'the daemon has ended')
  t.same(readdirSync(cwd), [])
  t.notOk(existsSync(runDirectory(path.join(cwd, 'tmp'))))
})

t.test('a killed mount is cleared by the next one', { skip: kernelSkip }, async t => {
  const { cwd, env, target } = await prepare(t)
  mkdirSync(path.join(cwd, 'tmp'))
  writeFileSync(path.join(cwd, 'tmp/mine'), 'not of the mount')
  const killed = await mount(t, ['--target', target, '--mount-path', 'first'], cwd, env)
  const pid = await daemonPid(cwd)
  t.equal((await killed.end('SIGKILL')).code, null)
  t.same(mountsBelow(cwd), [path.join(cwd, 'first')])
  const next = await mount(t, ['--target', target], cwd, env)
  t.same(mountsBelow(cwd), [path.join(cwd, 'image-fs')])
  t.equal(await daemonPid(cwd), pid, 'the living daemon goes on')
  t.match(await next.end('SIGINT'), { code: 0 })
  t.same(mountsBelow(cwd), [])
  t.notOk(isAlive(pid))
  t.same(readdirSync(cwd).sort(), ['first', 'tmp'])
  t.same(readdirSync(path.join(cwd, 'tmp')), ['mine'])
})

t.test('a mount in use is served until it is not', { skip: kernelSkip }, async t => {
  const { cwd, env, target } = await prepare(t)
  const mounted = await mount(t, ['--target', target], cwd, env)
  const holder = spawn('cat', { cwd: path.join(cwd, 'image-fs'), stdio: ['pipe', 'ignore', 'ignore'] })
  t.teardown(() => holder.kill('SIGKILL'))
  await once(holder, 'spawn')
  const told = once(createInterface({ input: mounted.process.stderr! }), 'line')
  mounted.process.kill('SIGTERM')
  t.match((await told)[0], /still in use/)
  const reader = `/proc/${holder.pid}/cwd/bin/large`
  t.ok(execFileSync('cat', [reader], { maxBuffer: 16 * MIB }).equals(large), 'what is read is right')
  const closed = once(mounted.process, 'close')
  holder.kill('SIGKILL')
  await closed
  t.equal(mounted.process.exitCode, 0)
  t.same(readdirSync(cwd), [])
})

t.test('data of a directory', { skip: kernelSkip }, async t => {
  const { registry, cwd, env, client } = await prepare(t)
  const blobs = path.join(scratch(t), 'made/blobs')
  const config = JSON.stringify({ dir: blobs })
  const backend = ['--backend-type', 'localfs', '--backend-config', config]
  const pair = ['--source', `${registry.host}/app:plain`, '--target', `${registry.host}/app:local`]
  const converted = await nydusify(['convert', ...pair, ...backend], { cwd, env })
  t.match(converted, { code: 0, stderr: /layer/ })
  const { layers } = (await client.fetchManifest('app', 'local')).content as Manifest
  t.equal(layers.length, 1, 'the bootstrap is the only layer')
  const { digest } = ((await client.fetchManifest('app', 'nydus')).content as Manifest).layers[0]!
  t.same(readdirSync(blobs), [digest.slice(7)])
  t.equal(sha256(readFileSync(path.join(blobs, digest.slice(7)))), digest)
  t.match(await nydusify(['convert', ...pair, ...backend], { cwd, env }), {
    code: 0,
    stdout: /\(0 B uploaded\)/,
  })

  const check = ['check', ...pair, '--target-backend-type', 'localfs', '--target-backend-config']
  const work = ['--work-dir', path.join(scratch(t), 'output')]
  t.match(await nydusify([...check, config, ...work], { cwd, env }), { code: 0, stdout: /are the same/ })
  const elsewhere = JSON.stringify({ dir: cwd })
  t.match(await nydusify([...check, elsewhere, ...work], { cwd, env }), { code: 5, stderr: /is in none of/ })

  const before = registry.accessLog.length
  const mounted = await mount(t, ['--target', `${registry.host}/app:local`, ...backend], cwd, env)
  const file = path.join(cwd, 'image-fs/bin/large')
  t.ok(execFileSync('cat', [file], { maxBuffer: 16 * MIB }).equals(large))
  t.match(await mounted.end('SIGTERM'), { code: 0 })
  const asked = registry.accessLog.slice(before).filter(({ path }) => path.includes(digest))
  t.same(asked, [], 'the registry was asked for none of it')

  for (const [code, sentence, args] of [
    [2, /--backend-config or/, ['--backend-type', 'localfs']],
    [3, /directory of the blobs/, ['--backend-type', 'localfs', '--backend-config', '{"blob_file":"/x"}']],
    [2, /neither with --build-cache/, [...backend, '--build-cache-tag', 'cache']],
    [10, /--backend-type oss comes with a later release/, ['--backend-type', 'oss']],
  ] as const)
    t.match(await nydusify(['convert', ...pair, ...args], { cwd, env }), { code, stderr: sentence })
  t.same(readdirSync(cwd), [])
})

t.test('what cannot be mounted', { skip }, async t => {
  const { registry, cwd, env, target } = await prepare(t)
  const run = (...args: string[]): Promise<Ended> => nydusify(['mount', ...args], { cwd, env })
  const v5 = `${registry.host}/app:v5`
  const args = ['convert', '--source', `${registry.host}/app:plain`, '--target', v5, '--fs-version', '5']
  t.match(await nydusify(args, { cwd, env }), { code: 0 })
  t.match(await run('--target', v5), { code: 4, stderr: /RAFS v5.*--fs-version 6/ })
  t.match(await run('--target', `${registry.host}/app:plain`), { code: 4, stderr: /is no nydus image/ })
  t.match(await run('--target', `${registry.host}/app:none`), { code: 5 })
  t.match(await run('--target', target, '--backend-type', 'localfs'), { code: 2, stderr: /--backend-config/ })
  const broken = ['--backend-type', 'localfs', '--backend-config', `{"dir": "${PASSWORD}`]
  const refused = await run('--target', target, ...broken)
  t.match(refused, { code: 3, stderr: /not valid JSON/ })
  t.notMatch(refused.stderr, PASSWORD)
  t.same(readdirSync(cwd), [])
  if (!existsSync('/dev/cachefiles')) {
    const unsupported = await run('--target', target, '--driver', 'fscache')
    t.match(unsupported, {
      code: 4,
      stderr: /^nydusify: no kernel path works here \(fscache: .*kernel-check\.sh/,
    })
    t.same(readdirSync(cwd), [], 'nothing is left of the attempt')
  }
  t.notOk(existsSync(runDirectory(path.join(cwd, 'tmp'))))
})
