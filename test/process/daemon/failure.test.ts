/**
 * What must hold when something fails while an image is read: a registry that is down, bytes that were altered, a full
 * disk, a daemon that is killed. Real daemon, kernel and mount; the registry is ours, so that it can misbehave on cue.
 */
import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { FileSource } from '../../../src/common/byte-source.js'
import { hasErrno } from '../../../src/common/fault.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { dropFileCache, probeRead } from '../../../src/native/file.js'
import type { SupervisorOptions } from '../../../src/supervisor/supervisor.js'
import { fixturesDirectory } from '../../helpers/rafs-fixtures.js'
import { type FaultRegistry, startFaultRegistry } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'
import { fanotifyMissing, readLog, type Supervised, supervise } from '../../helpers/supervised.js'

const fixtures = fixturesDirectory()
const skip = fanotifyMissing || (fixtures === undefined ? 'needs the shared fixtures' : false)
const DEADLINE = { timeoutMs: 60_000 }

interface Lazy {
  readonly node: Supervised
  readonly registry: FaultRegistry
  readonly mountpoint: string
  /** A file of the image with its right digest. */
  readonly victim: { path: string; sha256: string; size: number; blobId: string }
}

/** The uncompressed fixture image, its blobs on a registry of ours, mounted. */
async function mountLazily(t: Test, overrides: Partial<SupervisorOptions> = {}): Promise<Lazy> {
  const directory = scratch(t)
  const image = join(fixtures ?? '', 'rafs/v6-none-sha256')
  const registry = await startFaultRegistry(t)
  for (const id of readdirSync(join(image, 'blobs'))) {
    registry.addBlob(readFileSync(join(image, 'blobs', id)), { as: `sha256:${id}` })
  }
  const backend = {
    type: 'registry',
    config: { scheme: 'http', host: registry.host, repo: 'app', retry_limit: 1, timeout: 5 },
  }
  const node = await supervise(t, directory, backend, overrides)
  const mountpoint = join(directory, 'mnt')
  const bootstrapPath = join(image, 'merged.boot')
  await node.supervisor.mount({ id: '1', imageRef: 'test/app', bootstrapPath, mountpoint, labels: {} })
  return { node, registry, mountpoint, victim: pickVictim(bootstrapPath, mountpoint) }
}

/** A file of a few chunks, found in the bootstrap so that nothing is read. */
function pickVictim(bootstrapPath: string, mountpoint: string): Lazy['victim'] {
  const source = new FileSource(bootstrapPath)
  const bootstrap = Bootstrap.open(source)
  const expected = readFileSync(join(fixtures ?? '', 'torture/expected.jsonl'), 'utf8')
    .trim()
    .split('\n')
  for (const line of expected) {
    const entry = JSON.parse(line) as {
      path?: string
      type: string
      size?: number
      sha256?: string
      nlink?: number
    }
    if (entry.type !== 'f' || entry.path === undefined || (entry.size ?? 0) < 2_000_000) continue
    const inode = bootstrap.lookup(entry.path)
    const chunk = inode ? [...bootstrap.fileChunks(inode)][0] : undefined
    if (!chunk || !inode) continue
    const blobId = bootstrap.blobs[chunk.blobIndex]?.blobId ?? ''
    source.close()
    return { path: join(mountpoint, entry.path), sha256: entry.sha256 ?? '', size: inode.size, blobId }
  }
  throw new Error('the fixture has no file of 2 MB')
}

async function sha256sum(path: string): Promise<string> {
  const { stdout } = await promisify(execFile)('sha256sum', [path])
  return stdout.split(' ')[0]?.replace('\\', '') ?? ''
}

const readError = async (path: string): Promise<unknown> =>
  probeRead(path, 0, 4096, DEADLINE).then(
    () => undefined,
    (err: unknown) => err,
  )

t.test('a registry that is down is EIO after the retries, and no longer than that', { skip }, async t => {
  const { registry, victim } = await mountLazily(t)
  await registry.stop()
  const failure = await readError(victim.path)
  t.ok(hasErrno(failure, 'EIO'), String(failure))
  await registry.start()
  // A chunk that just failed fails at once for about a second: wait until a read gets through.
  let outcome = await readError(victim.path)
  for (const began = Date.now(); outcome !== undefined && Date.now() - began < 30_000;) {
    outcome = await readError(victim.path)
  }
  t.equal(outcome, undefined)
  t.equal(await sha256sum(victim.path), victim.sha256)
})

t.test('an altered chunk is EIO, and the log names blob, chunk and both digests', { skip }, async t => {
  const { node, registry, victim } = await mountLazily(t)
  const altered = registry.inject(
    { target: 'blob', digest: `sha256:${victim.blobId}` },
    { alter: bytes => (bytes.length > 500_000 ? bytes.map(byte => byte ^ 0xff) : bytes) },
  )
  t.ok(hasErrno(await readError(victim.path), 'EIO'))
  const line = readLog(node.logPath).find(entry => JSON.stringify(entry).includes('CHUNK_DIGEST_MISMATCH'))
  const text = JSON.stringify(line)
  t.match(text, victim.blobId)
  t.match(text, /"chunk(Index)?":\d+/)
  t.ok((text.match(/[0-9a-f]{64}/g) ?? []).length >= 3, 'blob id, expected and actual digest')
  altered.remove()
  let outcome: unknown = 'not read'
  for (const began = Date.now(); outcome !== undefined && Date.now() - began < 30_000;)
    outcome = await readError(victim.path)
  t.equal(await sha256sum(victim.path), victim.sha256)
})

t.test('control: with checking switched off the altered chunk comes through wrong', { skip }, async t => {
  const { registry, victim } = await mountLazily(t, { validate: false })
  registry.inject(
    { target: 'blob', digest: `sha256:${victim.blobId}` },
    { alter: bytes => (bytes.length > 500_000 ? bytes.map(byte => byte ^ 0xff) : bytes) },
  )
  t.not(await sha256sum(victim.path), victim.sha256)
})

t.test(
  'kill -9 of the daemon while a read waits: a successor finishes it with the right bytes',
  { skip },
  async t => {
    const { node, registry, victim, mountpoint } = await mountLazily(t)
    const before = await node.daemonPid()
    const held = registry.hold({ target: 'blob', digest: `sha256:${victim.blobId}` })
    const reading = sha256sum(victim.path)
    await held.arrived
    process.kill(before, 'SIGKILL')
    held.release()
    t.equal(await reading, victim.sha256)
    const after = await node.daemonPid()
    t.not(after, before)
    const log = readLog(node.logPath)
    t.ok(log.some(entry => entry['msg'] === 'settling events of the predecessor'))
    t.equal(node.supervisor.get('1')?.mountpoint, mountpoint)
  },
)

t.test('kill -9 again and again under load: never a wrong byte, never a stuck reader', { skip }, async t => {
  const { node, mountpoint } = await mountLazily(t)
  const reads = promisify(execFile)(
    'sh',
    ['-c', 'find . -type f -print0 | sort -z | xargs -0 -P4 -n1 sha256sum'],
    {
      cwd: mountpoint,
      maxBuffer: 1e7,
    },
  )
  for (let kills = 0; kills < 5; kills++) {
    const pid = await node.daemonPid().catch(() => 0)
    if (pid !== 0) process.kill(pid, 'SIGKILL')
    await node.supervisor.start().catch(() => undefined)
    await daemonAnswers(node)
  }
  const { stdout } = await reads
  const right = new Set<string>()
  for (const line of readFileSync(join(fixtures ?? '', 'torture/expected.jsonl'), 'utf8')
    .trim()
    .split('\n')) {
    const entry = JSON.parse(line) as { sha256?: string }
    if (entry.sha256 !== undefined) right.add(entry.sha256)
  }
  const sums = stdout
    .trim()
    .split('\n')
    .map(line => line.replace(/^\\/, '').slice(0, 64))
  t.ok(sums.length > 1000, `${sums.length} files were read`)
  t.strictSame(
    sums.filter(sum => !right.has(sum)),
    [],
  )
})

t.test('a full cache disk fails the read and gives no wrong byte; space lets it go on', { skip }, async t => {
  const disk = scratch(t)
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1g', 'tmpfs', disk])
  const backing = join(disk, 'ext4.img')
  execFileSync('truncate', ['-s', '64m', backing])
  execFileSync('mkfs.ext4', ['-q', backing])
  const cacheDirectory = join(disk, 'cache')
  mkdirSync(cacheDirectory)
  execFileSync('mount', ['-o', 'loop', backing, cacheDirectory])
  const { victim } = await mountLazily(t, { cacheDirectory })
  const ballast = join(cacheDirectory, 'ballast')
  t.throws(() => writeFileSync(ballast, Buffer.alloc(80 * 1024 * 1024)), { code: 'ENOSPC' })
  t.ok(hasErrno(await readError(victim.path), 'EIO'))
  execFileSync('rm', [ballast])
  let outcome: unknown = 'not read'
  for (const began = Date.now(); outcome !== undefined && Date.now() - began < 30_000;)
    outcome = await readError(victim.path)
  dropFileCache(victim.path)
  t.equal(await sha256sum(victim.path), victim.sha256)
})

/** Resolves when some daemon answers again. */
async function daemonAnswers(node: Supervised): Promise<void> {
  for (;;) {
    try {
      if ((await node.client().info()).state === 'RUNNING') return
    } catch {
      await once(process, 'never', { signal: AbortSignal.timeout(50) }).catch(() => undefined)
    }
  }
}
