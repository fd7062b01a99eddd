/**
 * The API of a real nydusd with images mounted: every endpoint, its keys as in the reference, and its numbers after
 * reads whose number is known.
 */
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { FsMetrics } from '../../../src/client/api.js'
import { runProgram } from '../../helpers/command-line.js'
import { mountCommand, runReader, startFuseDaemon } from '../../helpers/fuse-daemon.js'
import { fuseMissing } from '../../helpers/fuse-serving.js'
import { buildImage } from '../../helpers/rafs-image.js'
import { startFaultRegistry } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'

t.setTimeout(300_000)

const image = buildImage([
  { name: 'one', mode: 0o100644, data: Buffer.from('6 byte') },
  { name: 'big', mode: 0o100644, data: Buffer.alloc(300_000, 7) },
])
const COUNTED = { iostats_files: true, access_pattern: true, latest_read_files: true }
const AUTH = Buffer.from('user:s3cret').toString('base64')

interface Answer {
  status: number
  body: unknown
}

/** A daemon that shows one image at `/app`, whose blob is on a registry, and another one at `/plain`. */
async function serve(t: Test) {
  const directory = scratch(t)
  const at = (name: string): string => join(directory, name)
  mkdirSync(at('blobs'))
  writeFileSync(at('image.boot'), image.bootstrap)
  writeFileSync(join(at('blobs'), image.blobId), image.blob)
  const registry = await startFaultRegistry(t)
  registry.addBlob(image.blob)
  const daemon = await startFuseDaemon(t, directory)
  const ask = async (method: string, path: string, body?: unknown): Promise<Answer> => {
    const headers = { host: 'localhost', 'user-agent': 'test' }
    const sent = httpRequest({ socketPath: daemon.socketPath, method, path: `/api/v1/${path}`, headers })
    sent.end(body === undefined ? undefined : JSON.stringify(body))
    const [response] = (await once(sent, 'response')) as [IncomingMessage]
    let text = ''
    for await (const part of response) text += String(part)
    return { status: response.statusCode ?? 0, body: text === '' ? undefined : JSON.parse(text) }
  }
  const backend = {
    type: 'registry',
    registry: { scheme: 'http', host: registry.host, repo: 'app', auth: AUTH, retry_limit: 0 },
  }
  const counted = mountCommand(at('image.boot'), { backend, cache: at('cache'), rafs: COUNTED })
  const plain = mountCommand(at('image.boot'), { blobs: at('blobs'), cache: at('cache-plain') })
  return {
    directory,
    daemon,
    registry,
    ask,
    counted,
    plain,
    file: (path: string) => join(daemon.mountpoint, path),
  }
}

const keys = (value: unknown): string[] => Object.keys(value as object).sort()

t.test('the counters of a mount', { skip: fuseMissing }, async t => {
  const { ask, counted, plain, daemon, file, registry } = await serve(t)
  t.equal((await ask('GET', 'metrics')).status, 404, 'nothing is mounted')
  t.same(await ask('GET', 'metrics/inflight'), { status: 204, body: undefined })
  t.equal((await ask('POST', 'mount?mountpoint=/app', counted)).status, 204)

  const ino = Number(await runReader('stat', '-c', '%i', file('app/one'))) % 2 ** 40
  // A reader that waits for the registry is in flight.
  const hold = registry.hold({ target: 'blob' })
  const reading = runReader('cat', file('app/one'))
  await hold.arrived
  const inflight = await ask('GET', 'metrics/inflight')
  t.equal(inflight.status, 200)
  t.match(inflight.body, [{ inode: Number, opcode: 15, unique: Number, timestamp_secs: Number }])
  hold.release()
  t.equal(await reading, '6 byte')
  const { body } = await ask('GET', 'metrics')
  t.match(body, {
    id: '/app',
    data_read: 6,
    nr_opens: Number,
    measure_latency: true,
    files_account_enabled: true,
  })
  const { fop_hits: hits, block_count_read: sizes, read_latency_dist: latencies } = body as FsMetrics
  t.equal(hits.length, 15)
  t.equal(hits[4], 1, 'reads')
  t.strictSame(sizes, [1, 0, 0, 0, 0, 0, 0, 0])
  t.equal(
    latencies.reduce((a, b) => a + b),
    1,
  )
  t.strictSame(keys(body), [
    'access_pattern_enabled',
    'block_count_read',
    'data_read',
    'files_account_enabled',
    'fop_cumulative_latency_total',
    'fop_errors',
    'fop_hits',
    'id',
    'measure_latency',
    'nr_opens',
    'read_latency_dist',
    'record_latest_read_files_enabled',
  ])

  const files = (await ask('GET', 'metrics/files?id=/app')).body as Record<string, unknown>
  t.match(files[String(ino)], { data_read: 6, block_count_read: sizes, total_fops: Number })
  t.strictSame(keys(files[String(ino)]), [
    'block_count_read',
    'data_read',
    'fop_errors',
    'fop_hits',
    'total_fops',
  ])
  const patterns = (await ask('GET', 'metrics/pattern')).body
  t.match(patterns, [{ ino, nr_read: 1, first_access_time_secs: Number, first_access_time_nanos: Number }])
  t.same((await ask('GET', 'metrics/files?latest=true')).body, [[ino]])
  t.same((await ask('GET', 'metrics/files?latest=true')).body, [], 'told once')

  const backend = (await ask('GET', 'metrics/backend')).body
  t.match(backend, { backend_type: 'registry', read_errors: 0 })
  const { read_count: reads, read_count_block_size_dist: bySize } = backend as Record<
    string,
    number & number[]
  >
  t.ok(reads && reads > 0)
  t.equal(
    bySize?.reduce((a: number, b: number) => a + b),
    reads,
  )
  t.strictSame(keys(backend), [
    'backend_type',
    'read_amount_total',
    'read_count',
    'read_count_block_size_dist',
    'read_cumulative_latency_millis_dist',
    'read_cumulative_latency_millis_total',
    'read_errors',
    'read_latency_sizes_dist',
  ])

  t.equal((await ask('POST', 'mount?mountpoint=/plain', plain)).status, 204)
  await runReader('cat', file('plain/one'))
  t.equal((await ask('GET', 'metrics')).status, 404, 'which one?')
  t.match((await ask('GET', 'metrics?id=/plain')).body, {
    id: '/plain',
    data_read: 6,
    files_account_enabled: false,
  })
  t.same((await ask('GET', 'metrics/files?id=/plain')).body, {})
  t.same((await ask('GET', 'metrics/pattern?id=/plain')).body, [])
  t.same((await ask('GET', 'metrics/files?id=/plain&latest=true')).body, [])
  t.match((await ask('GET', 'metrics/backend?id=/plain')).body, { backend_type: 'localfs' })
  for (const name of ['metrics', 'metrics/files', 'metrics/pattern', 'metrics/backend', 'metrics/blobcache'])
    t.match(await ask('GET', `${name}?id=/nowhere`), { status: 404, body: { code: 'UNDEFINED' } }, name)

  const cache = (await ask('GET', 'metrics/blobcache?id=/app')).body
  t.match(cache, {
    underlying_files: [`${image.blobId}.blob.data`],
    buffered_backend_size: 0,
    data_all_ready: true,
  })
  t.strictSame(keys(cache), [
    'buffered_backend_size',
    'data_all_ready',
    'entries_count',
    'id',
    'partial_hits',
    'prefetch_begin_time_millis',
    'prefetch_begin_time_secs',
    'prefetch_cumulative_time_millis',
    'prefetch_data_amount',
    'prefetch_end_time_millis',
    'prefetch_end_time_secs',
    'prefetch_requests_count',
    'prefetch_unmerged_chunks',
    'prefetch_workers',
    'store_path',
    'total',
    'underlying_files',
    'whole_hits',
  ])
  const shown = await runProgram(t, 'nydusctl', [
    '-S',
    daemon.socketPath,
    'metrics',
    'fsstats',
    '--id',
    '/app',
  ])
  t.match(shown.stdout, /^Mountpoint: +\/app$/m)
})

t.test('mounts, settings and failed reads', { skip: fuseMissing }, async t => {
  const { ask, counted, plain, daemon, file, registry, directory } = await serve(t)
  const { body: info } = await ask('GET', 'daemon')
  t.match(info, { state: 'RUNNING', driver: 'fuse', backend_collection: {} })
  t.strictSame(keys((info as { version: object }).version), [
    'build_time',
    'git_commit',
    'package_ver',
    'profile',
    'rustc',
  ])
  const nydusctl = (...args: string[]) => runProgram(t, 'nydusctl', ['-S', daemon.socketPath, ...args])
  const config = join(directory, 'config.json')
  writeFileSync(config, counted.config)
  const mounted = await nydusctl('mount', '-s', counted.source, '-c', config, '-m', '/app')
  t.same(mounted, { code: 0, stdout: '', stderr: '' })
  const twice = await nydusctl('mount', '-s', counted.source, '-c', config, '-m', '/app')
  t.equal(twice.code, 6)
  t.match(twice.stderr, /^nydusctl: object or filesystem already exists.*\(INSTANCE_EXISTS\)\n$/)
  t.match((await nydusctl('info')).stdout, /^Mountpoint: +\/app\nType: +Rafs\nMounted Time: +2\d{3}-/m)

  const { body } = await ask('GET', 'daemon')
  t.match(body, {
    backend_collection: {
      '/app': {
        backend_type: 'Rafs',
        mountpoint: '/app',
        mounted_time: /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+00:00:00$/,
        config: { version: 2, backend: { registry: { repo: 'app', auth: null } }, rafs: { mode: 'direct' } },
      },
    },
  })
  t.notMatch(JSON.stringify(body), AUTH)
  t.match((await ask('GET', 'daemon/backend?mountpoint=/app')).body, { version: 0x600, inodes_count: 3 })

  for (const [method, target, command, status] of [
    ['POST', 'mount?mountpoint=/app', plain, 500],
    ['POST', 'mount?mountpoint=app', plain, 500],
    ['POST', 'mount?mountpoint=/x', { ...plain, fs_type: 'ext4' }, 500],
    ['POST', 'mount?mountpoint=/x', { ...plain, fs_type: 'passthrough_fs' }, 501],
    ['POST', 'mount?mountpoint=/x', { ...plain, source: '/nonexistent' }, 500],
    ['POST', 'mount?mountpoint=/x', { ...plain, config: '{"version": 2}' }, 500],
    ['POST', 'mount?mountpoint=/x', { ...plain, config: '' }, 500],
    ['POST', 'mount?mountpoint=/x', { ...plain, prefetch_files: ['etc'] }, 500],
    ['PUT', 'mount?mountpoint=/x', plain, 500],
    ['DELETE', 'mount?mountpoint=/x', undefined, 500],
    ['PUT', 'mount', { source: plain.source, fstype: 'rafs', mountpoint: '/x' }, 500],
    ['GET', 'daemon/backend?mountpoint=/x', undefined, 500],
    ['PUT', 'config?id=/app', { registry_password: 's3cret' }, 500],
    ['PUT', 'daemon/start', undefined, 400],
  ] as const) {
    const answer = await ask(method, target, command)
    t.equal(answer.status, status, `${method} ${target}`)
    t.match(answer.body, {
      code: 'UNDEFINED',
      message: /^(Mount|FsBackendInfo|Configure|Upgrade)\(\w+\(.*\)\)$/,
    })
    t.notMatch(JSON.stringify(answer.body), 's3cret')
  }
  t.same(keys((await ask('GET', 'daemon')).body), keys(body))

  t.same((await ask('GET', 'config?id=/app')).body, { registry_auth: AUTH })
  for (const value of ['bmV3OnMzY3JldA==', 'bmV3ZXI6czNjcmV0']) {
    t.equal((await ask('PUT', 'config?id=/app', { registry_auth: value })).status, 204)
    t.same((await ask('GET', 'config?id=/app')).body, { registry_auth: value })
  }
  t.same((await ask('GET', 'config')).body, { '/app:registry_auth': 'bmV3ZXI6czNjcmV0' })
  t.equal((await ask('PUT', 'config?id=/app/', { proxy_url: 'http://p' })).status, 204)
  const settings = { registry_auth: 'bmV3ZXI6czNjcmV0', proxy_url: 'http://p' }
  t.same((await ask('GET', 'config?id=/app')).body, settings, 'the same mount, however its path is written')

  registry.inject({ target: 'blob' }, { status: 500 })
  await t.rejects(runReader('cat', file('app/one')), /Input\/output error/)
  const events = (await ask('GET', 'daemon/events')).body as { total_errors: number; errors: string[] }
  t.ok(events.total_errors > 0)
  t.match(events.errors[0], new RegExp(`GMT - registry: blob ${image.blobId}, \\d+ bytes at \\d+: `))
  t.match((await ask('GET', 'metrics/backend')).body, { read_errors: events.total_errors })

  t.equal((await ask('PUT', 'mount?mountpoint=/app', plain)).status, 204, 'another backend in its place')
  t.same((await ask('GET', 'config')).body, {}, 'and nothing put to it')
  t.equal(await runReader('cat', file('app/one')), '6 byte')
  t.match((await ask('GET', 'metrics/backend')).body, { backend_type: 'localfs', read_errors: 0 })
  t.same(await nydusctl('umount', '-m', '/app'), { code: 0, stdout: '', stderr: '' })
  t.match((await ask('GET', 'daemon')).body, { backend_collection: {} })
  t.same((await ask('GET', 'config')).body, {})
  const gone = await nydusctl('umount', '/app')
  t.equal(gone.code, 5)
})
