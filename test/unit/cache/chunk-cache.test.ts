import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
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

t.test('what cannot be checked or decoded says so, with both digests, and is not sticky', async t => {
  const logged: Record<string, unknown>[] = []
  const logger = pino({ base: null }, { write: line => logged.push(JSON.parse(line) as (typeof logged)[0]) })
  let now = 0
  const { blob, reader, cached } = await setUp(
    t,
    { chunks: [8192, 8192, 8192], coded: true, batch: 3 },
    { logger, now: () => now },
  )
  const altered = Buffer.from(reader.stored)
  altered[1 + 8192 + 77]! ^= 4
  reader.answer = () => altered
  await t.rejects(cached.ensure(8192, 1, demand), { code: 'CHUNK_DIGEST_MISMATCH' })
  t.equal(reader.reads.length, 2, 'it was fetched once more')
  await cached.ensure(0, 8192, demand)
  t.equal(reader.reads.length, 2, 'the other chunks of the batch are ready')
  t.match(logged[0], { blob: blob.blobId, chunk: 1, expected: /^[0-9a-f]{64}$/, actual: /^[0-9a-f]{64}$/ })
  t.equal(logged.length, 2, 'a line for each attempt')
  t.notOk(cached.isReady(8192, 1))
  now += 1000
  altered[0] = 0
  await t.rejects(cached.ensure(8192, 1, demand), { code: 'CHUNK_DECODE' })
  now += 1000
  reader.answer = undefined
  await cached.ensure(0, blob.uncompressedSize, demand)
  t.ok(readFileSync(cached.path).equals(blob.plain))
})

t.test('with checking off the altered chunk comes through wrong', async t => {
  const { blob, reader, cache, openOptions } = await setUp(t, { chunks: [8192] })
  const other = { ...openOptions, blobId: '1'.repeat(64), validate: false }
  const cached = await cache.openBlob(other)
  reader.answer = (_, bytes) => Buffer.from(bytes).fill(9, 0, 1)
  await cached.ensure(0, 8192, demand)
  const bytes = readFileSync(cached.path)
  t.equal(bytes[0], 9)
  t.ok(bytes.subarray(1).equals(blob.plain.subarray(1)))
})

t.test('a short answer is a failure, not data', async t => {
  const { reader, cached } = await setUp(t, { chunks: [8192] })
  reader.answer = (_, bytes) => bytes.subarray(1)
  await t.rejects(cached.ensure(0, 1, demand), { code: 'REGISTRY_PROTOCOL' })
  t.notOk(cached.isReady(0, 1))
})

t.test('metadata that cannot be loaded fails the question, and is loaded afresh later', async t => {
  let now = 0
  let broken = true
  let loads = 0
  const { blob, cache, reader } = await setUp(t, { chunks: [8192] }, { now: () => now })
  const layoutSource = {
    load: async () => {
      loads++
      if (broken) throw fault('REGISTRY_UNAVAILABLE', 'down')
      return blob
    },
  }
  const cached = await cache.openBlob({ blobId: '2'.repeat(64), sizeBytes: 8192, layoutSource, reader })
  const fail = () => t.rejects(cached.ensure(0, 1, demand), { code: 'REGISTRY_UNAVAILABLE' })
  await Promise.all([fail(), fail(), fail()])
  t.equal(loads, 1)
  broken = false
  now += 1000
  await cached.ensure(0, 1, demand)
  t.equal(loads, 2)
})

t.test('waiting readers overtake prefetch, and what is promoted goes with them', async t => {
  const chunks = Array.from({ length: 64 }, () => 64 * KIB)
  const { reader, cached } = await setUp(
    t,
    { chunks },
    { batchBytes: 64 * KIB, maxRequests: 2, readaheadBytes: 0 },
  )
  const gates = Array.from({ length: 64 }, () => createGate())
  reader.answer = async (read, bytes) => (await gates[read.offset / KIB / 64]!.opened, bytes)
  const prefetch = cached.ensure(0, 64 * 64 * KIB, { kind: 'prefetch' })
  await reader.arrived(1)
  const first = cached.ensure(40 * 64 * KIB, 1, demand)
  const second = cached.ensure(30 * 64 * KIB, 1, demand)
  await reader.arrived(2)
  gates[40]!.open()
  await first
  await reader.arrived(3)
  for (const gate of gates) gate.open()
  await Promise.all([prefetch, second])
  const order = reader.reads.map(read => [read.offset / KIB / 64, read.kind])
  t.same(order.slice(0, 4), [
    [0, 'prefetch'],
    [40, 'demand'],
    [30, 'demand'],
    [1, 'prefetch'],
  ])
  t.equal(order.length, 64, 'nothing is fetched twice')
  t.ok(cached.complete)
})

t.test('a reader that joined a guess which failed gets a request of its own', async t => {
  const { reader, cached } = await setUp(t, { chunks: [8192] })
  const gate = createGate()
  reader.answer = async (read, bytes) => {
    if (read.kind === 'demand') return bytes
    await gate.opened
    throw fault('REGISTRY_UNAVAILABLE', 'a prefetch tries once only')
  }
  const prefetch = cached.ensure(0, 8192, { kind: 'prefetch' })
  await reader.arrived(1)
  const read = cached.ensure(0, 10, demand)
  gate.open()
  await Promise.all([prefetch, read])
  t.same(
    reader.reads.map(r => r.kind),
    ['prefetch', 'demand'],
  )
})

t.test('a merged range that is refused is asked for one by one', async t => {
  const { reader, cached } = await setUp(t, { chunks: [8192, 8192, 8192] }, { readaheadBytes: 0 })
  reader.answer = (read, bytes) => {
    if (read.offset + read.length > 2 * 8192)
      throw fault('REGISTRY_NOT_FOUND', 'the stored blob is cut short')
    return bytes
  }
  await Promise.all([
    cached.ensure(0, 1, demand),
    cached.ensure(8192, 1, demand),
    t.rejects(cached.ensure(2 * 8192, 1, demand), { code: 'REGISTRY_NOT_FOUND' }),
  ])
  t.ok(cached.isReady(0, 2 * 8192))
})

t.test('chunks of a long answer count as they arrive, also when it breaks off', async t => {
  const { blob, reader, cached } = await setUp(t, { chunks: [8192, 8192, 8192, 8192] }, { readaheadBytes: 0 })
  const gate = createGate()
  reader.arrive = async (_, told) => {
    told(8000)
    told(8192)
    told(2 * 8192 + 1)
    await gate.opened
  }
  reader.answer = () => {
    throw fault('REGISTRY_UNAVAILABLE', 'broke off')
  }
  const asked = [0, 1, 2, 3].map(chunk => cached.ensure(chunk * 8192, 8192, demand))
  await Promise.all(asked.slice(0, 2))
  t.equal(reader.active, 1, 'the request goes on')
  const rest = asked.slice(2).map(promise => t.rejects(promise, { code: 'REGISTRY_UNAVAILABLE' }))
  gate.open()
  await Promise.all(rest)
  t.same(
    [0, 1, 2, 3].map(chunk => cached.isReady(chunk * 8192, 8192)),
    [true, true, false, false],
  )
  t.equal(reader.reads.length, 1)
  t.ok(readFileSync(cached.path).subarray(0, 16_384).equals(blob.plain.subarray(0, 16_384)))
})

t.test('memory and requests stay bounded while a thousand readers ask', async t => {
  const chunks = Array.from({ length: 1000 }, () => 16 * KIB)
  const limit = 256 * KIB
  const { blob, reader, cache, cached } = await setUp(
    t,
    { chunks, storedGap: 64 * KIB },
    { memoryBytes: limit, maxRequests: 8 },
  )
  let most = 0
  reader.answer = async (_, bytes) => {
    most = Math.max(most, cache.heldBytes)
    await new Promise(resolve => setImmediate(resolve))
    return bytes
  }
  const order = chunks.map((_, i) => (i * 389) % 1000)
  await Promise.all(order.map(chunk => cached.ensure(chunk * 16 * KIB, 10, demand)))
  t.ok(most <= limit, `${most} bytes held at most`)
  t.ok(reader.mostActive > 4 && reader.mostActive <= 8, `${reader.mostActive} requests at once`)
  t.equal(cache.heldBytes, 0)
  t.equal(cache.requestsInFlight, 0)
  t.ok(readFileSync(cached.path).equals(blob.plain))
  t.equal(reader.reads.length, 1000)
})

t.test('blobs take turns', async t => {
  const chunks = Array.from({ length: 8 }, () => 8192)
  const { reader, cache, cached, openOptions } = await setUp(
    t,
    { chunks, storedGap: 64 * KIB },
    { maxRequests: 1, readaheadBytes: 0 },
  )
  const otherReader = new FakeReader(new FakeBlob({ chunks, storedGap: 64 * KIB }))
  const other = await cache.openBlob({ ...openOptions, blobId: '3'.repeat(64), reader: otherReader })
  const seen: string[] = []
  reader.answer = (_, bytes) => (seen.push('a'), bytes)
  otherReader.answer = (_, bytes) => (seen.push('b'), bytes)
  await Promise.all([
    ...chunks.map((_, i) => cached.ensure(i * 8192, 1, demand)),
    ...chunks.map((_, i) => other.ensure(i * 8192, 1, demand)),
  ])
  t.equal(seen.join(''), 'ab'.repeat(8))
})

t.test('who gives up is told at once, and what nobody wants is not fetched', async t => {
  const { reader, cached } = await setUp(t, { chunks: [8192, 8192], storedGap: 64 * KIB }, { maxRequests: 1 })
  const gate = createGate()
  reader.answer = async (_, bytes) => (await gate.opened, bytes)
  const first = cached.ensure(0, 1, demand)
  await reader.arrived(1)
  const abort = new AbortController()
  const second = cached.ensure(8192, 1, { kind: 'demand', signal: abort.signal })
  await new Promise(resolve => setImmediate(resolve))
  abort.abort()
  await t.rejects(second, { code: 'CANCELLED' })
  gate.open()
  await first
  t.equal(reader.reads.length, 1)
  await cached.ensure(8192, 1, demand)
  t.equal(reader.reads.length, 2, 'giving up is no failure of the chunk')
})

t.test('two images share a blob: readers stand in for each other, digests add up', async t => {
  const { blob, reader, cache, openOptions, cached } = await setUp(t, { chunks: [8192, 8192], unknown: [1] })
  await cached.ensure(0, 8192, demand)
  t.ok(cached.complete, 'a chunk that no image here can ask for does not count')
  await t.rejects(cached.ensure(8192, 1, demand), { code: 'CHUNK_DIGEST_MISMATCH' })
  t.equal(reader.reads.length, 1)

  const full = new FakeBlob({ chunks: [8192, 8192] })
  const second = new FakeReader(full)
  const layoutSource = { load: async () => full, loadLocal: async () => full }
  const same = await cache.openBlob({ ...openOptions, layoutSource, reader: second })
  t.equal(same, cached)
  t.notOk(cached.complete)
  reader.answer = () => {
    throw fault('CANCELLED', 'the backend was closed')
  }
  await cached.ensure(8192, 1, demand)
  t.equal(second.reads.length, 1)
  t.ok(cached.complete)
  t.ok(readFileSync(cached.path).equals(blob.plain))
  await cache.closeBlob(cached, reader)
  t.ok(cached.isReady(0, 16_384), 'still open for the other image')
  await cache.closeBlob(cached, second)
  await t.rejects(async () => cached.ensure(0, 1, demand).then(() => cached.ensure(-1, 1, demand)), {
    code: 'CACHE_RANGE',
  })
  t.same(await cache.blobs(), [])
})

t.test('a chunk whose image is closed while it is fetched is not told as there', async t => {
  const { reader, cache, openOptions, cached } = await setUp(t, { chunks: [8192, 8192] })
  const layout = new FakeBlob({ chunks: [8192, 8192], unknown: [1] })
  const layoutSource = { load: async () => layout, loadLocal: async () => layout }
  await cache.openBlob({ ...openOptions, layoutSource, reader: new FakeReader(layout) })
  const gate = createGate()
  reader.answer = async (_, bytes) => (await gate.opened, bytes)
  const asked = t.rejects(cached.ensure(8192, 1, demand), { code: 'CANCELLED' })
  await reader.arrived(1)
  await cache.closeBlob(cached, reader)
  gate.open()
  await asked
  t.notOk(cached.isReady(8192, 1))
  await t.rejects(cached.ensure(8192, 1, demand), { code: 'CHUNK_DIGEST_MISMATCH' })
  await cached.ensure(0, 1, demand)
})

t.test('closing ends what is under way', async t => {
  const { reader, cache, cached } = await setUp(
    t,
    { chunks: [8192, 8192], storedGap: 64 * KIB },
    { maxRequests: 1 },
  )
  reader.answer = () => new Promise(() => {})
  const asked = [0, 8192].map(at => t.rejects(cached.ensure(at, 1, demand), { code: 'CANCELLED' }))
  await reader.arrived(1)
  await cache.closeBlob(cached, reader)
  await Promise.all(asked)
  await t.rejects(cached.ensure(0, 1, demand), { code: 'CANCELLED' })
})

t.test('a sequential reader is run ahead of, a scattered one is not', async t => {
  const chunks = Array.from({ length: 64 }, () => 64 * KIB)
  const { blob, reader, cached } = await setUp(t, { chunks }, { readaheadBytes: 1024 * KIB })
  for (const chunk of [50, 3, 20, 40, 10, 12, 14, 30, 5])
    await cached.ensure(chunk * 64 * KIB + 8192, 10, demand)
  t.equal(reader.reads.length, 9)
  t.ok(reader.reads.every(read => read.length === 64 * KIB && read.kind === 'demand'))

  for (let at = 0; at < blob.uncompressedSize; at += 16 * KIB) {
    if (!cached.isReady(at, 16 * KIB)) await cached.ensure(at, 16 * KIB, demand)
  }
  const kinds = reader.reads.slice(9).map(read => read.kind)
  const demands = kinds.filter(kind => kind === 'demand').length
  // Without running ahead each of the 55 chunks left would be one; how far ahead it gets depends on the machine.
  t.ok(demands < 28, `${demands} requests for a reader that waited, ${kinds.length - demands} ahead of it`)
  t.ok(cached.complete)
  const fetched = reader.reads.reduce((sum, read) => sum + read.length, 0)
  t.equal(fetched, blob.stored.length, 'each byte once')
})

t.test('bad arguments', async t => {
  const { cache, cached, openOptions } = await setUp(t, { chunks: [8192] })
  await t.rejects(cached.ensure(-1, 10, demand), { code: 'CACHE_RANGE' })
  await t.rejects(cached.ensure(0, NaN, demand), { code: 'CACHE_RANGE' })
  await t.rejects(cache.openBlob({ ...openOptions, blobId: '../x' }), { code: 'CACHE_RANGE' })
  await t.rejects(cache.openBlob({ ...openOptions, sizeBytes: 100 }), { code: 'CACHE_RANGE' })
  await t.rejects(cache.openBlob({ ...openOptions, sizeBytes: 4096 }), { code: 'BLOB_META_INVALID' })
  await cached.ensure(8192, 100, demand)
  await cached.ensure(0, 0, demand)
  const small = await cache.openBlob({ ...openOptions, blobId: '4'.repeat(64), sizeBytes: 4096 })
  await t.rejects(small.ensure(0, 1, demand), { code: 'BLOB_META_INVALID' }, 'metadata of another blob')
})
