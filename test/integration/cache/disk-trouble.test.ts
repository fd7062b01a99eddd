/** What becomes of a chunk cache whose disk is full, read-only, broken, or emptied below it. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { ChunkCache, type ChunkCacheOptions } from '../../../src/cache/chunk-cache.js'
import { FakeBlob, FakeReader } from '../../helpers/fake-blob.js'
import { until } from '../../helpers/lazy-node.js'
import { LoggedDisk, withDisk } from '../../helpers/logged-disk.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'

const SIZE = 64 * 1024
const COUNT = 10
const demand = { kind: 'demand' } as const
const BOOTS = ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002'] as const
const blobs = [1, 2].map(seed => new FakeBlob({ chunks: Array.from({ length: COUNT }, () => SIZE), seed }))
const [blob, other] = blobs as [FakeBlob, FakeBlob]
const all = blob.uncompressedSize

const openBlob = (cache: ChunkCache, of = blob, fillFd?: number) =>
  cache.openBlob({
    blobId: of.blobId,
    sizeBytes: of.uncompressedSize,
    chunkCount: of.chunkCount,
    layoutSource: { load: async () => of, loadLocal: async () => of },
    reader: new FakeReader(of),
    ...(fillFd === undefined ? {} : { fillFd }),
  })

async function open(options: ChunkCacheOptions) {
  const cache = ChunkCache.open({ readaheadBytes: 0, failureWindowMs: 0, ...options })
  return { cache, cached: await openBlob(cache) }
}

const mount = (...args: string[]) => execFileSync('mount', args)
/** The bytes of chunks, whatever has become of the file's name. */
const bytesOf = (fd: number, count: number) => readFileSync(`/proc/self/fd/${fd}`).subarray(0, count * SIZE)
const right = (count: number) => Buffer.from(blob.plain.subarray(0, count * SIZE))

t.test(
  'no room for the maps: the blob is refused, and taken once there is room',
  { skip: rootMissing },
  async t => {
    const directory = scratch(t)
    mount('-t', 'tmpfs', '-o', 'size=64k', 'none', directory)
    const ballast = path.join(directory, 'ballast')
    t.throws(() => writeFileSync(ballast, Buffer.alloc(100 * 1024)), { code: 'ENOSPC' })
    const cache = ChunkCache.open({ directory: path.join(directory, 'cache') })
    await t.rejects(openBlob(cache), { code: 'CACHE_FULL' })
    rmSync(ballast)
    mount('-o', 'remount,size=4m', directory)
    const cached = await openBlob(cache)
    await cached.ensure(0, all, demand)
    t.ok(bytesOf(cached.fillFd, COUNT).equals(right(COUNT)))
    await cache.close()
  },
)

t.test('read-only: what is there is served, the rest fails, and heals', { skip: rootMissing }, async t => {
  const mountpoint = scratch(t)
  mount('-t', 'tmpfs', '-o', 'size=4m', 'none', mountpoint)
  const directory = path.join(mountpoint, 'cache')
  const first = await open({ directory, bootId: BOOTS[0] })
  await first.cached.ensure(0, 3 * SIZE, demand)
  await first.cache.close()
  mount('-o', 'remount,ro', mountpoint)
  for (const bootId of BOOTS) {
    const { cache, cached } = await open({ directory, bootId })
    t.ok(cached.isReady(0, 3 * SIZE), 'of this boot and of another')
    await cached.ensure(0, 3 * SIZE, demand)
    await t.rejects(cached.ensure(3 * SIZE, SIZE, demand), { code: 'CACHE_IO' })
    t.notOk(cached.isReady(3 * SIZE, 1))
    await t.rejects(openBlob(cache, other), { code: 'CACHE_IO' }, 'no file can be made')
    await cache.close()
  }
  mount('-o', 'remount,rw', mountpoint)
  const { cache, cached } = await open({ directory, bootId: BOOTS[1] })
  await cached.ensure(0, all, demand)
  t.ok(bytesOf(cached.fillFd, COUNT).equals(right(COUNT)))
  await cache.close()
})

t.test('the directory is removed below a running cache', async t => {
  const directory = path.join(scratch(t), 'cache')
  const { cache, cached } = await open({ directory, syncIdleMs: 10 })
  await cached.ensure(0, 3 * SIZE, demand)
  rmSync(directory, { recursive: true })
  await cached.ensure(0, 5 * SIZE, demand)
  t.ok(bytesOf(cached.fillFd, 5).equals(right(5)), 'what is open goes on')

  // A blob opened now is found again later.
  const second = await openBlob(cache, other)
  await second.ensure(0, all, demand)
  t.ok(readFileSync(path.join(directory, `${other.blobId}.blob.data`)).equals(other.plain))
  t.throws(() => ChunkCache.open({ directory }), { code: 'STORE_LOCKED' }, 'the new directory is locked too')

  // A successor has the file without a name and no word of what is in it.
  const fillFd = openSync(`/proc/self/fd/${cached.fillFd}`, 'r+')
  await cache.close()
  const successor = ChunkCache.open({ directory })
  const inherited = await openBlob(successor, blob, fillFd)
  t.equal(inherited.ino, cached.ino)
  t.notOk(inherited.isReady(0, 1))
  await inherited.ensure(0, all, demand)
  t.ok(bytesOf(fillFd, COUNT).equals(right(COUNT)))
  t.ok((await openBlob(successor, other)).complete)
  await successor.close()

  const fresh = await open({ directory })
  t.notOk(fresh.cached.isReady(0, 1), 'what was said of the lost file is not said of the next one')
  await fresh.cache.close()
})

const noDisk = spawnSync('sh', ['-c', 'command -v qemu-storage-daemon']).status !== 0
const skip = rootMissing || (noDisk && 'qemu-storage-daemon is not installed (sh scripts/setup-debian.sh vm)')

async function brokenDisk(t: Test) {
  const mountpoint = path.join(scratch(t), 'disk')
  mkdirSync(mountpoint)
  const disk = await LoggedDisk.start(mountpoint, 24 * 1024 * 1024)
  t.teardown(() => disk.stop())
  return { disk, mountpoint, directory: path.join(mountpoint, 'cache') }
}

t.test('the disk fails: what it did not take is not ready any more', { skip, timeout: 120_000 }, async t => {
  const { disk, directory } = await brokenDisk(t)
  const { cache, cached } = await open({ directory, syncIdleMs: 300 })
  await cached.ensure(0, 3 * SIZE, demand)
  const map = `${cached.path}.chunk_map`
  await until('the first chunks durable', () => readFileSync(map)[4096] === 0xe0)
  execFileSync('sync', [map])
  await cached.ensure(3 * SIZE, 2 * SIZE, demand)
  t.ok(cached.isReady(0, 5 * SIZE))
  await disk.kill()
  await until('the failed flush told', () => !cached.isReady(3 * SIZE, 1))
  t.notOk(cached.isReady(4 * SIZE, 1))
  t.ok(cached.isReady(0, 3 * SIZE), 'what it had taken stays')
  // A write may still go to memory; it is then taken back as before.
  await cached.ensure(5 * SIZE, SIZE, demand).catch((err: unknown) => t.match(err, { code: 'CACHE_IO' }))
  await until('no more than that', () => !cached.isReady(5 * SIZE, 1))
  await cache.close()

  // The disk comes back with what it had.
  const image = await disk.stop()
  const again = scratch(t)
  await withDisk(image, again, async () => {
    const { cache, cached } = await open({ directory: path.join(again, 'cache'), bootId: BOOTS[1] })
    t.ok(cached.isReady(0, 3 * SIZE))
    t.notOk(cached.isReady(3 * SIZE, 1))
    t.ok(bytesOf(cached.fillFd, 3).equals(right(3)))
    await cached.ensure(0, all, demand)
    t.ok(bytesOf(cached.fillFd, COUNT).equals(right(COUNT)))
    await cache.close()
  })
})
