import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { createBackend } from '../../../src/backend/create.js'
import { type BackendRead, backendReads } from '../../../src/backend/read-events.js'
import type { Backend } from '../../../src/backend/reader.js'
import { type Logger, silentLogger } from '../../../src/common/log.js'
import { startFaultRegistry } from '../../helpers/registry.js'

const BLOB = randomBytes(100_000)
const ID = createHash('sha256').update(BLOB).digest('hex')
const OTHER = 'f'.repeat(64)
const logger = silentLogger
const demand = { kind: 'demand' } as const
const directory = mkdtempSync(path.join(os.tmpdir(), 'backend-'))
t.teardown(() => rmSync(directory, { recursive: true }))

/** What every backend owes its callers. */
async function contract(t: Test, backend: Backend): Promise<void> {
  const blob = backend.open(ID)
  t.equal(blob.blobId, ID)
  t.equal(await blob.size(demand), BLOB.length)
  const parts = await Promise.all([0, 1, 50_000].map(offset => blob.read(offset, 1000, demand)))
  for (const [i, offset] of [0, 1, 50_000].entries())
    t.ok(Buffer.from(parts[i] ?? []).equals(BLOB.subarray(offset, offset + 1000)))
  t.equal((await blob.read(BLOB.length - 1, 1, { kind: 'prefetch' })).length, 1)
  await t.rejects(blob.read(BLOB.length - 1, 2, demand), 'beyond the end')
  await t.rejects(blob.read(0, 10, { ...demand, signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  t.match(
    await backend
      .open(OTHER)
      .read(0, 1, demand)
      .catch(err => err as unknown),
    { kind: 'not_found' },
  )
  for (const id of ['', '../x', `sha256:${ID}`, ID.toUpperCase()])
    t.throws(() => backend.open(id), { code: 'CONFIG_INVALID' })
  await backend.close()
  await backend.close()
  await t.rejects(blob.read(0, 1, demand), { code: 'CANCELLED' })
}

t.test('localfs', async t => {
  const at = (name: string): string => path.join(directory, name)
  const [dir, alt, empty] = [at('dir'), at('alt'), at('empty')]
  for (const d of [dir, alt, empty]) mkdirSync(d)
  writeFileSync(path.join(dir, ID), BLOB)
  await contract(t, createBackend('localfs', { dir }, { logger }))
  writeFileSync(path.join(empty, ID), '')
  const elsewhere = createBackend(
    'localfs',
    { dir: empty, alt_dirs: [alt, dir], readahead: true },
    { logger },
  )
  t.equal((await elsewhere.open(ID).read(0, 10, demand)).length, 10, 'an empty file is passed over')
  await elsewhere.close()
  const one = createBackend('localfs', { blob_file: path.join(dir, ID), dir: '/nonexistent' }, { logger })
  t.equal(await one.open(OTHER).size(demand), BLOB.length, 'blob_file serves every id')
  await one.close()
  const late = createBackend('localfs', { dir: alt }, { logger })
  await t.rejects(late.open(ID).read(0, 1, demand), { code: 'FILE_MISSING', message: /mend "dir"/ })
  writeFileSync(path.join(alt, ID), BLOB)
  t.equal((await late.open(ID).read(0, 1, demand)).length, 1, 'no failure sticks')
  await late.close()
})

t.test('registry', async t => {
  const auth = { username: 'u', password: 'p', method: 'bearer' } as const
  const registry = await startFaultRegistry(t, { auth })
  registry.addBlob(BLOB)
  const config = {
    scheme: 'http',
    host: registry.host,
    repo: 'app',
    auth: Buffer.from('u:p').toString('base64'),
    retry_limit: 1,
  }
  await contract(t, createBackend('registry', config, { logger }))

  const said: string[] = []
  const listening = { warn: (context: { key: string }) => said.push(context.key) } as unknown as Logger
  const later = { ...config, proxy: { url: 'http://p' }, mirrors: [{ host: 'http://m' }] }
  const backend = createBackend('registry', later, { logger: listening })
  t.same(said, ['proxy', 'mirrors'], 'keys of a later release are named')

  const reads: BackendRead[] = []
  const onRead = (message: unknown): unknown => reads.push(message as BackendRead)
  backendReads.subscribe(onRead)
  await backend.open(ID).read(5, 10, demand)
  await t.rejects(backend.open(OTHER).read(0, 1, { kind: 'readahead' }))
  backendReads.unsubscribe(onRead)
  t.match(reads, [
    { backend: 'registry', blobId: ID, kind: 'demand', offset: 5, length: 10, durationMs: Number },
    { blobId: OTHER, kind: 'readahead', error: 'REGISTRY_NOT_FOUND' },
  ])

  // A waiting reader does not queue behind prefetch, whose connections are all busy.
  const hold = registry.hold({ target: 'blob', where: e => e.range === 'bytes=0-0' })
  const prefetches = Array.from({ length: 40 }, () => backend.open(ID).read(0, 1, { kind: 'prefetch' }))
  await hold.arrived
  t.equal((await backend.open(ID).read(1, 1, demand)).length, 1)
  t.ok(hold.waiting <= 4, 'and prefetch has a bound')
  hold.release()
  await Promise.all(prefetches)
  await backend.close()
})

t.test('configurations that are refused', async t => {
  const refused = (type: string, config: unknown, code: string, message: RegExp): void =>
    void t.throws(() => createBackend(type, config, { logger }), { code, message }, `${type} ${message}`)
  const all = /\.hots: unknown key, did you mean "host"\?.*\.host: the key is missing.*\.timeout: 0 to/
  refused('registry', { repo: 'a', hots: 'x', timeout: -1 }, 'CONFIG_INVALID', all)
  for (const host of ['', 'http://x', 'a/b', 'u:p@x', 'a b'])
    refused('registry', { host, repo: 'a' }, 'CONFIG_INVALID', /backend\.registry\.host: HOST/)
  for (const repo of ['', '/a', 'a/', '../a', 'A', 'a:tag', 'a?b'])
    refused('registry', { host: 'x', repo }, 'CONFIG_INVALID', /backend\.registry\.repo: a repository/)
  const auth = Buffer.from('nocolon').toString('base64')
  refused('registry', { host: 'x', repo: 'a', auth }, 'CREDENTIALS_INVALID', /^(?!.*bm9jb2)/)
  refused('localfs', {}, 'CONFIG_INVALID', /neither "dir" nor "blob_file"/)
  refused('localfs', null, 'CONFIG_INVALID', /backend.localfs: a table is wanted/)
  for (const type of ['oss', 's3', 'localdisk', 'http-proxy'])
    refused(type, {}, 'UNIMPLEMENTED', new RegExp(`type ${type} comes with a later release`))
  refused('registri', {}, 'CONFIG_INVALID', /did you mean "registry"/)
})

t.test('idle connections keep no process alive', async t => {
  const registry = await startFaultRegistry(t)
  registry.addBlob(BLOB)
  const module = new URL('../../../src/backend/create.js', import.meta.url).href
  const script = `
    import { createBackend } from ${JSON.stringify(module)}
    const [host, id] = process.argv.slice(1)
    const backend = createBackend('registry', { host, repo: 'app' }, { logger: console })
    const bytes = await backend.open(id).read(0, 10, { kind: 'demand' })
    console.log(bytes.length)`
  const argv = ['--input-type=module', '-e', script, registry.host, ID]
  // The keep-alive time is 15 s: a process that waits for it is killed here.
  const { stdout } = await promisify(execFile)(process.execPath, argv, { timeout: 12_000 })
  t.equal(stdout.trim(), '10')
})
