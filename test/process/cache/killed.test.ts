/** kill -9 of a process that fills a cache, again and again: whatever is reported ready must be right. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { ChunkCache } from '../../../src/cache/chunk-cache.js'
import { fillerBlob } from '../../helpers/cache-filler.js'
import { FakeReader } from '../../helpers/fake-blob.js'
import { scratch } from '../../helpers/scratch.js'

const filler = path.resolve(import.meta.dirname, '../../helpers/cache-filler.js')

t.test('every chunk reported ready after a kill has the right bytes', { timeout: 120_000 }, async t => {
  const directory = scratch(t)
  const blob = fillerBlob()
  const counts: number[] = []
  for (let round = 1; round <= 5; round++) {
    const child = spawn(process.execPath, [filler, directory, String(round)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    t.teardown(() => child.kill('SIGKILL'))
    // What was ready is passed over quickly, so later rounds die later.
    let lines = round * 2
    child.stdout.on('data', (data: Buffer) => {
      lines -= data.toString().split('\n').length - 1
      if (lines <= 0) child.kill('SIGKILL')
    })
    const [, signal] = (await once(child, 'exit')) as [number | null, string | null]
    t.equal(signal, 'SIGKILL')

    const cache = ChunkCache.open({ directory, syncBytes: Infinity, syncIdleMs: 1_000_000 })
    const cached = await cache.openBlob({
      blobId: blob.blobId,
      sizeBytes: blob.uncompressedSize,
      layoutSource: { load: async () => blob, loadLocal: async () => blob },
      reader: new FakeReader(blob),
    })
    const fd = openSync(cached.path, 'r')
    let ready = 0
    let wrong = 0
    for (let chunk = 0; chunk < blob.chunkCount; chunk++) {
      const { offset, length } = blob.chunkRange(chunk)
      if (!cached.isReady(offset, length)) continue
      ready++
      const bytes = Buffer.alloc(length)
      readSync(fd, bytes, 0, length, offset)
      if (!bytes.equals(blob.plain.subarray(offset, offset + length))) wrong++
    }
    closeSync(fd)
    counts.push(ready)
    t.equal(wrong, 0, `round ${round}: ${ready} of ${blob.chunkCount} chunks ready, none wrong`)
    await cache.close()
  }
  t.ok(counts[0]! > 0 && counts[0]! < blob.chunkCount, 'the first kill came in the middle')
  t.same(
    counts,
    [...counts].sort((a, b) => a - b),
    'nothing is lost by a kill',
  )
})
