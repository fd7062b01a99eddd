import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import t, { type Test } from 'tap'
import { ChunkCache, type ChunkCacheOptions } from '../../../src/cache/chunk-cache.js'
import { fault } from '../../../src/common/fault.js'
import { createGate, FakeBlob, type FakeBlobOptions, FakeReader } from '../../helpers/fake-blob.js'

const KIB = 1024
const demand = { kind: 'demand' } as const

async function setUp(t: Test, blobOptions: FakeBlobOptions, options: Partial<ChunkCacheOptions> = {}) {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'chunk-cache-'))
  const blob = new FakeBlob(blobOptions)
  const reader = new FakeReader(blob)
  const cache = ChunkCache.open({ directory, ...options })
  t.teardown(async () => {
    await cache.close()
    rmSync(directory, { recursive: true })
  })
  let loads = 0
  const layoutSource = { load: async () => (loads++, blob) }
  const openOptions = { blobId: blob.blobId, sizeBytes: blob.uncompressedSize, layoutSource, reader }
  const cached = await cache.openBlob(openOptions)
  return { directory, blob, reader, cache, cached, openOptions, loads: () => loads }
}

t.test('a range is fetched, checked and written, once however many ask', async t => {
  const { blob, reader, cached, loads } = await setUp(t, { chunks: [10_000, 70_000, 4096, 5] })
  t.equal(reader.reads.length, 0, 'opening asks nothing')
  t.equal(loads(), 0)
  t.notOk(cached.isReady(0, 1))
  await Promise.all(Array.from({ length: 100 }, () => cached.ensure(0, 9000, demand)))
  t.equal(loads(), 1)
  t.same(reader.reads, [{ offset: 0, length: 10_000, kind: 'demand' }])
  t.ok(cached.isReady(0, 12_288), 'with the padding behind it')
  t.notOk(cached.isReady(0, 12_289))
  await cached.ensure(0, blob.uncompressedSize, demand)
  t.same(readFileSync(cached.path), Buffer.from(blob.plain))
  t.ok(cached.complete)
  await new Promise<void>(resolve => cached.onDurable(resolve))
  t.ok(cached.durable)
  t.equal(reader.reads.length, 2, 'the neighbours went out as one request')
})

t.test('questions of one moment are merged when near, and apart otherwise', async t => {
  const chunks = Array.from({ length: 40 }, () => 64 * KIB)
  const { reader, cached } = await setUp(t, { chunks }, { batchBytes: 256 * KIB, readaheadBytes: 0 })
  const gate = createGate()
  reader.answer = async (_, bytes) => (await gate.opened, bytes)
  const all = [1, 0, 2, 20, 30, 31, 32, 33, 34].map(chunk => cached.ensure(chunk * 64 * KIB, 1, demand))
  await reader.arrived(4)
  t.equal(reader.active, 4, 'ranges apart go out together')
  gate.open()
  await Promise.all(all)
  const ranges = reader.reads.map(r => [r.offset / KIB / 64, r.length / KIB / 64])
  t.same(
    ranges.sort((a, b) => a[0]! - b[0]!),
    [
      [0, 3],
      [20, 1],
      [30, 4],
      [34, 1],
    ],
  )
})

t.test('a wrong digest is fetched once more, then fails its own waiters only', async t => {
  const { blob, reader, cached } = await setUp(t, { chunks: [8192, 8192, 8192] }, { readaheadBytes: 0 })
  let wrong = 1
  reader.answer = (read, bytes) => {
    if (read.offset > 8192 || read.offset + read.length <= 8192 || wrong-- <= 0) return bytes
    const altered = Buffer.from(bytes)
    altered[8192 - read.offset]! ^= 1
    return altered
  }
  await cached.ensure(0, blob.uncompressedSize, demand)
  t.equal(reader.reads.length, 2)
  t.same(reader.reads[1], { offset: 8192, length: 8192, kind: 'demand' })
  t.same(readFileSync(cached.path), Buffer.from(blob.plain))
})

t.test('a failure is told at once for a moment, then the chunk is tried afresh', async t => {
  let now = 5000
  const { blob, reader, cached } = await setUp(
    t,
    { chunks: [8192, 8192, 8192] },
    { now: () => now, readaheadBytes: 0 },
  )
  reader.answer = () => {
    throw fault('REGISTRY_UNAVAILABLE', 'down')
  }
  await t.rejects(cached.ensure(8192, 10, demand), { code: 'REGISTRY_UNAVAILABLE' })
  now += 900
  await t.rejects(cached.ensure(8192, 10, demand), { code: 'REGISTRY_UNAVAILABLE' })
  t.equal(reader.reads.length, 1, 'one budget of retries')
  reader.answer = undefined
  await cached.ensure(0, 10, demand)
  t.equal(reader.reads.length, 2, 'other chunks are not concerned')
  now += 101
  await cached.ensure(0, blob.uncompressedSize, demand)
  t.same(readFileSync(cached.path), Buffer.from(blob.plain))
})
