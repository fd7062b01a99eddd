/**
 * The power goes while a cache is filled and snapshots are made, at hundreds of points of what the disk was asked to do:
 * what is called ready is right, what was complete needs no network, what was answered is there, and work goes on.
 * NYDUS_TEST_POWER_CUTS says how many points.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { ChunkCache } from '../../../src/cache/chunk-cache.js'
import { fault } from '../../../src/common/fault.js'
import { LABELS } from '../../../src/snapshotter/labels.js'
import {
  CutReplay,
  type LogEntry,
  LoggedDisk,
  type Loss,
  readLog,
  withDisk,
} from '../../helpers/logged-disk.js'
import { type Ack, bootstrapOf, openImageBlob, powerCutImages } from '../../helpers/power-cut-work.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'
import { startSnapshotsServer } from '../../helpers/snapshots-server.js'

const CUTS = Number(process.env['NYDUS_TEST_POWER_CUTS'] ?? 240)
const DISK_BYTES = 24 * 1024 * 1024
const BLOCK = 4096

const missing = ['qemu-storage-daemon', 'mkfs.ext4', 'losetup'].filter(
  name => spawnSync('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin command -v ${name}`]).status !== 0,
)
const skip =
  rootMissing || (missing.length > 0 && `not installed: ${missing.join(' ')} (sh scripts/setup-debian.sh vm)`)
process.env['PATH'] += ':/usr/sbin:/sbin'

const work = path.resolve(import.meta.dirname, '../../helpers/power-cut-work.js')
const images = powerCutImages()

function createRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

interface Recording {
  readonly before: Buffer
  readonly entries: readonly LogEntry[]
  readonly acks: readonly Ack[]
}

/** Lets the work be done, then ends who did it, and tells what the disk was asked to do. */
async function record(t: Test, flushed: 'flushed' | 'unflushed'): Promise<Recording> {
  const directory = scratch(t)
  const mountpoint = path.join(directory, 'disk')
  mkdirSync(mountpoint)
  const disk = await LoggedDisk.start(mountpoint, DISK_BYTES)
  const acks = path.join(directory, 'acks')
  const child = spawn(process.execPath, [work, mountpoint, disk.logPath, acks, flushed], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let after: Buffer
  try {
    const lines: string[] = []
    const said = once(child.stdout.setEncoding('utf8'), 'data').then(([line]) => lines.push(line as string))
    await Promise.race([said, once(child, 'exit')])
    t.same(lines, ['done\n'])
  } finally {
    const ended = once(child, 'exit')
    if (child.exitCode === null && child.kill('SIGKILL')) await ended
    after = await disk.stop()
  }
  const entries = readLog(disk.logPath)
  const all = new CutReplay(Buffer.from(disk.before), entries).at(entries.length, 'nothing', Math.random)
  t.ok(all.equals(after), 'the whole log makes the disk as it is')
  const lines = readFileSync(acks, 'utf8').split('\n').filter(Boolean)
  const local = (file: string) => path.relative(mountpoint, file)
  return {
    before: disk.before,
    entries,
    acks: lines
      .map(line => JSON.parse(line) as Ack)
      .map(ack => (ack.bootstrap === undefined ? ack : { ...ack, bootstrap: local(ack.bootstrap) })),
  }
}

interface Cut {
  /** Entries that came before it. */
  readonly count: number
  readonly loss: Loss
}

/** Ascending; every second one where writes were lost that no flush had made sure. */
function chooseCuts(entries: readonly LogEntry[], count: number, random: () => number): Cut[] {
  return Array.from({ length: count }, () => 1 + Math.floor(random() * entries.length))
    .sort((a, b) => a - b)
    .map((at, i) => ({ count: at, loss: i % 2 === 0 ? 'lost' : 'nothing' }))
}

/** The plain contents of each image's blob. */
async function readPlain(): Promise<Buffer[]> {
  const cache = ChunkCache.open({ directory: path.join(scratch(t), 'plain') })
  const plain: Buffer[] = []
  for (const image of images) {
    const blob = await openImageBlob(cache, image)
    await blob.ensure(0, blob.sizeBytes, { kind: 'prefetch' })
    plain.push(readFileSync(blob.path))
  }
  await cache.close()
  return plain
}

interface CacheVerdict {
  ready: number
  wrong: number
  /** Blobs that were there in full. */
  complete: number
  /** Of those, how many could not be read without the network. */
  needed: number
  /** Blobs with a wrong byte after everything was asked for. */
  notMended: number
}

/** Opens the cache of another boot and reads all that it calls ready, then all there is. */
async function checkCache(
  directory: string,
  plain: readonly Buffer[],
  bootId: string,
): Promise<CacheVerdict> {
  const verdict = { ready: 0, wrong: 0, complete: 0, needed: 0, notMended: 0 }
  const cache = ChunkCache.open({ directory, bootId, readaheadBytes: 0 })
  for (const [index, image] of images.entries()) {
    const expected = plain[index]!
    const gone = () => Promise.reject(fault('REGISTRY_UNAVAILABLE', 'the network is gone'))
    const alone = { blobId: image.blobId, size: gone, read: gone }
    const blob = await openImageBlob(cache, image, alone)
    const bytes = Buffer.alloc(BLOCK)
    const fd = openSync(blob.path, 'r')
    for (let offset = 0; offset < blob.sizeBytes; offset += BLOCK) {
      if (!blob.isReady(offset, BLOCK)) continue
      verdict.ready++
      readSync(fd, bytes, 0, BLOCK, offset)
      if (!bytes.equals(expected.subarray(offset, offset + BLOCK))) verdict.wrong++
    }
    closeSync(fd)
    if (blob.complete) {
      verdict.complete++
      await blob.ensure(0, blob.sizeBytes, { kind: 'demand' }).catch(() => verdict.needed++)
    }
    await cache.closeBlob(blob, alone)
    const whole = await openImageBlob(cache, image)
    await whole.ensure(0, whole.sizeBytes, { kind: 'prefetch' })
    if (!readFileSync(whole.path).equals(expected)) verdict.notMended++
  }
  await cache.close()
  return verdict
}

type Listing = ReadonlyMap<string, string>

/** What is there after each number of answered calls. */
function listings(acks: readonly Ack[]): Listing[] {
  const now = new Map<string, string>()
  const all = [new Map(now)]
  for (const { op, key, name = '' } of acks) {
    if (op === 'prepare') now.set(key, 'active')
    else now.delete(key)
    if (op === 'commit') now.set(name, 'committed')
    all.push(new Map(now))
  }
  return all
}

const same = (a: Listing, b: Listing) =>
  a.size === b.size && [...a].every(([key, kind]) => b.get(key) === kind)

/** Problems of the snapshotter's state after a cut, when `answered` of the calls had been answered; none when it is right. */
async function checkSnapshots(disk: string, acks: readonly Ack[], answered: number): Promise<string[]> {
  const server = await startSnapshotsServer(path.join(disk, 'node'), { syncRemove: true })
  try {
    const found = new Map((await server.client.list()).map(({ name, kind }) => [name, kind]))
    const all = listings(acks)
    // The call under way may have happened or not.
    const right = [all[answered]!, all[answered + 1] ?? new Map(found)].some(listing => same(listing, found))
    const problems = right ? [] : [`other snapshots after ${answered} calls: ${[...found].join(' ')}`]
    for (const { name, bootstrap } of acks.slice(0, answered)) {
      if (bootstrap === undefined || name === undefined || !found.has(name)) continue
      const file = path.join(disk, bootstrap)
      if (!existsSync(file) || !readFileSync(file).equals(bootstrapOf(images, name)))
        problems.push(`the bootstrap of ${name} is damaged`)
    }
    const [mount] = await server.client.prepare('after', '')
    if (!existsSync(mount!.source)) problems.push('a new snapshot has no directory')
    await server.client.commit('after-name', 'after', { [LABELS.imageRef]: 'r' })
    await server.client.cleanup()
    await server.client.remove('after-name')
    return problems
  } finally {
    await server.close()
  }
}

const plain = await readPlain()

t.test('cuts at any write, with unflushed writes lost', { skip, timeout: 280_000 }, async t => {
  const { before, entries, acks } = await record(t, 'flushed')
  const random = createRandom(4711)
  const cuts = chooseCuts(entries, CUTS, random)
  const replay = new CutReplay(before, entries)
  const directory = scratch(t)
  const total = { ready: 0, wrong: 0, complete: 0, needed: 0, notMended: 0 }
  const problems: string[] = []
  let calls = 0
  for (const [index, { count, loss }] of cuts.entries()) {
    const image = replay.at(count, loss, random)
    const logBytes = entries[count - 1]!.logBytes
    const answered = acks.filter(ack => ack.logBytes <= logBytes).length
    await withDisk(image, directory, async () => {
      const verdict = await checkCache(path.join(directory, 'cache'), plain, `cut-${index}`)
      for (const key of ['ready', 'wrong', 'complete', 'needed', 'notMended'] as const)
        total[key] += verdict[key]
      problems.push(...(await checkSnapshots(directory, acks, answered)))
    })
    calls += answered
  }
  const blocks = plain.reduce((sum, bytes) => sum + bytes.length / BLOCK, 0)
  const flushes = entries.filter(entry => entry.kind === 'flush').length
  t.comment(
    `${cuts.length} cut points among ${entries.length} entries, ${flushes} of them flushes: ${total.ready} ready blocks ` +
      `checked, ${total.wrong} wrong; ${total.complete} complete blobs, ${total.needed} needed the network; ` +
      `${calls} answered calls of the snapshotter checked, ${problems.length} problems`,
  )
  t.ok(total.ready > cuts.length && total.ready < cuts.length * blocks, 'cuts came in between')
  t.ok(total.complete > 0 && calls > cuts.length, 'there was something to check')
  t.same([total.wrong, total.needed, total.notMended], [0, 0, 0])
  t.same(problems.slice(0, 5), [])
})

t.test(
  'without the flush before the bit the same cuts find wrong bytes',
  { skip, timeout: 280_000 },
  async t => {
    const plain = await readPlain()
    const { before, entries } = await record(t, 'unflushed')
    const random = createRandom(4711)
    const replay = new CutReplay(before, entries)
    const directory = scratch(t)
    let cuts = 0
    let wrong = 0
    for (const { count, loss } of chooseCuts(entries, 20, random)) {
      await withDisk(replay.at(count, loss, random), directory, async () => {
        wrong += (await checkCache(path.join(directory, 'cache'), plain, `cut-${cuts++}`)).wrong
      })
    }
    t.comment(`${cuts} cut points: ${wrong} wrong blocks called ready`)
    t.ok(wrong > 0)
  },
)
