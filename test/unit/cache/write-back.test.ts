import { closeSync, openSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { ReadyMaps } from '../../../src/cache/ready-maps.js'
import { WriteBack } from '../../../src/cache/write-back.js'
import { silentLogger } from '../../../src/common/log.js'
import { scratch } from '../../helpers/scratch.js'

function setUp(t: Parameters<typeof scratch>[0], options: { syncBytes: number; syncIdleMs: number }) {
  const data = path.join(scratch(t), 'x.blob.data')
  writeFileSync(data, '')
  const open = () => ReadyMaps.open(data, 16, 'b'.repeat(36), silentLogger)
  const maps = open()
  let flushes = 0
  let flushed = () => {}
  const file = { path: data, fd: openSync(data, 'r+') }
  const lost: number[] = []
  const count = () => {
    flushes++
    flushed()
  }
  const writeBack = new WriteBack(file as never, maps, options, silentLogger, count, chunks => {
    lost.push(...chunks)
    maps.distrust(chunks)
  })
  const write = (chunk: number, bytes = 100) => {
    maps.setWritten(chunk)
    writeBack.add(chunk, bytes)
  }
  // The flush timer keeps no process alive.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => {
    clearInterval(alive)
    closeSync(file.fd)
  })
  const nextFlush = () => new Promise<void>(resolve => (flushed = resolve))
  return { maps, open, file, writeBack, write, nextFlush, lost, flushes: () => flushes }
}

t.test('chunks become durable in batches: by size, by silence, and at the end', async t => {
  const { maps, writeBack, write, nextFlush, flushes } = setUp(t, { syncBytes: 300, syncIdleMs: 20 })
  let flushed = nextFlush()
  for (const chunk of [0, 1, 2]) write(chunk)
  await flushed
  t.same(maps.notDurable(), [])
  t.equal(flushes(), 1, 'one flush for the three')
  flushed = nextFlush()
  write(3)
  t.same(maps.notDurable(), [3])
  await flushed
  t.same(maps.notDurable(), [])
  write(4)
  await writeBack.close()
  t.same(maps.notDurable(), [])
  maps.close()
})

t.test('what cannot be flushed is never called durable, and is not trusted later', async t => {
  const { maps, open, file, writeBack, write, lost, flushes } = setUp(t, { syncBytes: 1e9, syncIdleMs: 1e6 })
  write(1)
  await writeBack.flush()
  write(2)
  const good = file.fd
  file.fd = -1
  await writeBack.flush()
  file.fd = good
  write(3)
  await writeBack.close()
  t.equal(flushes(), 2)
  t.same([lost, maps.has(2)], [[2], false], 'its bytes may be gone from memory too')
  maps.close()
  const again = open()
  t.same(
    [1, 2, 3].map(chunk => again.has(chunk)),
    [true, false, true],
  )
  t.same(again.notDurable(), [])
  again.close()
})
