/** Chunk caches on a real file system: opened again, damaged, full, held by another. */
import { execFileSync } from 'node:child_process'
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { ChunkCache, type ChunkCacheOptions } from '../../../src/cache/chunk-cache.js'
import { FakeBlob, FakeReader } from '../../helpers/fake-blob.js'
import { rootMissing, scratch } from '../../helpers/scratch.js'

const SIZE = 64 * 1024
const demand = { kind: 'demand' } as const
const chunks = Array.from({ length: 10 }, () => SIZE)
const blob = new FakeBlob({ chunks })
const local = { load: async () => blob, loadLocal: async () => blob }
const BOOTS = ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002'] as const
/** No flush by itself. */
const never = { syncBytes: Infinity, syncIdleMs: 1_000_000, readaheadBytes: 0 }

async function open(options: ChunkCacheOptions, fillFd?: number) {
  const cache = ChunkCache.open(options)
  const reader = new FakeReader(blob)
  const cached = await cache.openBlob({
    blobId: blob.blobId,
    sizeBytes: blob.uncompressedSize,
    layoutSource: local,
    reader,
    ...(fillFd === undefined ? {} : { fillFd }),
  })
  return { cache, reader, cached }
}

t.test('what was ready is ready again, as far as the boot allows', async t => {
  const directory = scratch(t)
  const first = await open({ directory, ...never })
  await first.cached.ensure(0, 3 * SIZE, demand)
  await first.cache.close()

  const second = await open({ directory, ...never, bootId: BOOTS[0] })
  t.ok(second.cached.isReady(0, 3 * SIZE), 'closing made it durable')
  await second.cached.ensure(3 * SIZE, SIZE, demand)
  t.notOk(second.cached.isReady(4 * SIZE, 1))
  // Not closed: its flush never ran. The lock is of the open directory, so another one must wait for it.
  t.throws(() => ChunkCache.open({ directory }), { code: 'STORE_LOCKED' })
  const copy = scratch(t)
  execFileSync('cp', ['-a', '--sparse=always', `${directory}/.`, copy])
  const same = await open({ directory: copy, ...never, bootId: BOOTS[0] })
  t.ok(same.cached.isReady(0, 4 * SIZE), 'same boot: written counts')
  t.equal(same.cached.durable, false)
  await same.cached.ensure(0, 4 * SIZE, demand)
  t.equal(same.reader.reads.length, 0)
  await same.cache.close()

  const copy2 = scratch(t)
  execFileSync('cp', ['-a', '--sparse=always', `${directory}/.`, copy2])
  await second.cache.close()
  const cut = await open({ directory: copy2, ...never, bootId: BOOTS[1] })
  t.ok(cut.cached.isReady(0, 3 * SIZE))
  t.notOk(cut.cached.isReady(3 * SIZE, 1), 'other boot: only durable counts')
  await cut.cached.ensure(0, blob.uncompressedSize, demand)
  t.ok(readFileSync(cut.cached.path).equals(blob.plain))
  await cut.cache.close()
})

t.test('a cache file that is gone or cut is not believed to be full', async t => {
  for (const harm of [rmSync, (file: string) => truncateSync(file, SIZE)]) {
    const directory = scratch(t)
    const first = await open({ directory })
    await first.cached.ensure(0, blob.uncompressedSize, demand)
    await first.cache.close()
    harm(first.cached.path)
    const second = await open({ directory })
    t.notOk(second.cached.isReady(0, 1))
    await second.cached.ensure(0, blob.uncompressedSize, demand)
    t.ok(readFileSync(second.cached.path).equals(blob.plain))
    await second.cache.close()
  }
})

t.test('a file of another size is refused, one that ends at the last byte is completed', async t => {
  const directory = scratch(t)
  const data = path.join(directory, `${blob.blobId}.blob.data`)
  const first = await open({ directory })
  await first.cached.ensure(0, blob.uncompressedSize, demand)
  await first.cache.close()
  truncateSync(data, blob.uncompressedSize - 100)
  const second = await open({ directory })
  t.ok(second.cached.complete)
  t.equal(statSync(data).size, blob.uncompressedSize)
  await second.cache.close()
  truncateSync(data, blob.uncompressedSize + 4096)
  const cache = ChunkCache.open({ directory })
  const reader = new FakeReader(blob)
  const options = { blobId: blob.blobId, sizeBytes: blob.uncompressedSize, layoutSource: local, reader }
  await t.rejects(cache.openBlob(options), { code: 'CACHE_IO' })
  t.same(await cache.blobs(), [])
  await cache.close()
})

t.test('an inherited fill descriptor is used, a wrong one refused', async t => {
  const directory = scratch(t)
  const first = await open({ directory })
  await first.cached.ensure(0, SIZE, demand)
  await first.cache.close()
  const fd = openSync(first.cached.path, 'r+')
  const { ino } = fstatSync(fd)
  const second = await open({ directory }, fd)
  t.equal(second.cached.fillFd, fd)
  t.equal(second.cached.ino, ino)
  t.ok(second.cached.isReady(0, SIZE))
  await second.cached.ensure(0, blob.uncompressedSize, demand)
  t.ok(readFileSync(second.cached.path).equals(blob.plain))
  await second.cache.close()
  const other = path.join(directory, 'other')
  writeFileSync(other, '')
  const wrong = openSync(other, 'r+')
  const cache = ChunkCache.open({ directory })
  const options = {
    blobId: blob.blobId,
    sizeBytes: blob.uncompressedSize,
    layoutSource: local,
    fillFd: wrong,
  }
  await t.rejects(cache.openBlob({ ...options, reader: new FakeReader(blob) }), { code: 'CACHE_IO' })
  closeSync(wrong)
  await cache.close()
})

t.test('a full disk fails the chunk, never marks it, and heals', { skip: rootMissing }, async t => {
  const directory = scratch(t)
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=400k', 'none', directory])
  const ballast = path.join(directory, 'ballast')
  writeFileSync(ballast, Buffer.alloc(100 * 1024))
  let now = 0
  const { cache, cached, reader } = await open({
    directory,
    now: () => now,
    readaheadBytes: 0,
    batchBytes: SIZE,
  })
  let full = 0
  for (let chunk = 0; chunk < chunks.length; chunk++) {
    try {
      await cached.ensure(chunk * SIZE, SIZE, demand)
    } catch (err) {
      t.match(err, { code: 'CACHE_FULL' })
      t.notOk(cached.isReady(chunk * SIZE, SIZE))
      full++
    }
  }
  t.ok(full > 3 && full < 10, `${full} of 10 chunks found no room`)
  const data = readFileSync(cached.path)
  for (let chunk = 0; chunk < chunks.length; chunk++) {
    if (!cached.isReady(chunk * SIZE, SIZE)) continue
    const range = [chunk * SIZE, (chunk + 1) * SIZE] as const
    t.ok(data.subarray(...range).equals(blob.plain.subarray(...range)), `chunk ${chunk} is right`)
  }
  execFileSync('mount', ['-o', 'remount,size=4m', directory])
  now += 1000
  const before = reader.reads.length
  await cached.ensure(0, blob.uncompressedSize, demand)
  t.ok(reader.reads.length > before)
  t.ok(cached.complete)
  t.ok(readFileSync(cached.path).equals(blob.plain))
  await cache.close()
  t.ok(existsSync(ballast))
})
