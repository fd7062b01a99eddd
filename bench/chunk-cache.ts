/**
 * What the chunk cache costs by itself: 512 MiB of uncompressed 1 MiB chunks from a reader in memory into the cache
 * file, beside a plain loop that writes the same bytes to a file. Prints MB/s, the ratio of each to that loop, and the
 * processor time, which other programs on the machine do not change.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { ChunkCache } from '../src/cache/chunk-cache.js'
import type { BlobLayout, Extent } from '../src/cache/layout.js'
import { digestOf } from '../src/common/digest.js'
import { fault } from '../src/common/fault.js'

const MIB = 1024 * 1024
const SIZE = 512 * MIB
const EVENT = 128 * 1024
const POOL = 32
/** The stored blob repeats after POOL chunks; twice here, so that every range is one piece of it. */
const stored = new Uint8Array(2 * POOL * MIB)
for (let i = 0; i < POOL * MIB; i++) stored[i] = (i * 31 + (i >>> 20) * 7) >>> 3
stored.copyWithin(POOL * MIB, 0, POOL * MIB)
const bytesAt = (offset: number, length: number) =>
  stored.subarray(offset % (POOL * MIB), (offset % (POOL * MIB)) + length)
const digests = Array.from({ length: POOL }, (_, i) => Buffer.from(digestOf('blake3', bytesAt(i * MIB, MIB))))

const layout: BlobLayout = {
  chunkCount: SIZE / MIB,
  uncompressedSize: SIZE,
  chunkRange: chunk => ({ offset: chunk * MIB, length: MIB }),
  chunksIn: (offset, length) => ({
    first: Math.floor(offset / MIB),
    end: Math.ceil((offset + length) / MIB),
  }),
  extentOf: (chunk): Extent => ({
    storedOffset: chunk * MIB,
    storedLength: MIB,
    firstChunk: chunk,
    chunkCount: 1,
  }),
  verifiable: () => true,
  decode: (extent, stored) =>
    Promise.resolve([{ chunk: extent.firstChunk, offset: extent.firstChunk * MIB, bytes: stored }]),
  verify: ({ chunk, bytes }) => {
    if (digests[chunk % POOL]?.equals(digestOf('blake3', bytes)) !== true) {
      throw fault('CHUNK_DIGEST_MISMATCH', `chunk ${chunk} is wrong`)
    }
  },
}

const directory = mkdtempSync(path.join(os.tmpdir(), 'bench-cache-'))

async function plainLoop(): Promise<void> {
  const file = await open(path.join(directory, 'plain'), 'w')
  await file.truncate(SIZE)
  for (let chunk = 0; chunk < SIZE / MIB; chunk++)
    await file.write(bytesAt(chunk * MIB, MIB), 0, MIB, chunk * MIB)
  await file.close()
}

async function throughCache(validate: boolean, step: number, delayMs = 0): Promise<void> {
  const cache = ChunkCache.open({ directory, syncBytes: Infinity, syncIdleMs: 60_000 })
  const reader = {
    blobId: '0'.repeat(64),
    size: () => Promise.resolve(SIZE),
    read: async (offset: number, length: number) => {
      if (delayMs > 0) await new Promise(resolve => setTimeout(resolve, delayMs))
      return bytesAt(offset, length)
    },
  }
  const layoutSource = { load: () => Promise.resolve(layout) }
  const blob = await cache.openBlob({
    blobId: reader.blobId,
    sizeBytes: SIZE,
    layoutSource,
    reader,
    validate,
  })
  for (let at = 0; at < SIZE; at += step) {
    if (!blob.isReady(at, step)) await blob.ensure(at, step, { kind: 'demand' })
  }
  done = performance.now()
  if (!blob.complete) throw new Error('not complete')
  await cache.close()
  for (const name of ['data', 'data.chunk_map', 'written']) {
    rmSync(path.join(directory, `${reader.blobId}.blob.${name}`))
  }
}

let done = 0
async function measure(name: string, run: () => Promise<void>, plain?: number): Promise<number> {
  const started = performance.now()
  const cpu = process.cpuUsage()
  done = 0
  await run()
  const rate = SIZE / 1e6 / (((done || performance.now()) - started) / 1000)
  const { user, system } = process.cpuUsage(cpu)
  const ratio = plain === undefined ? '' : `  ${(rate / plain).toFixed(2)} of the plain loop`
  process.stdout.write(
    `${name.padEnd(52)} ${rate.toFixed(0).padStart(6)} MB/s  ${((user + system) / 1e6).toFixed(2)} s of processor${ratio}\n`,
  )
  return rate
}

try {
  await plainLoop()
  rmSync(path.join(directory, 'plain'))
  const plain = await measure('plain loop of writes', plainLoop)
  rmSync(path.join(directory, 'plain'))
  await measure('one ensure() of all, unchecked', () => throughCache(false, SIZE), plain)
  await measure('one ensure() of all, blake3', () => throughCache(true, SIZE), plain)
  await measure('ensure() of 128 KiB in a row, blake3', () => throughCache(true, EVENT), plain)
  await measure('the same, 5 ms to the backend', () => throughCache(true, EVENT, 5), plain)
} finally {
  rmSync(directory, { recursive: true })
}
