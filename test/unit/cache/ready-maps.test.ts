import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { ReadyMaps } from '../../../src/cache/ready-maps.js'
import { readBootId } from '../../../src/cache/written-map.js'
import { silentLogger } from '../../../src/common/log.js'
import { scratch } from '../../helpers/scratch.js'

const BOOT = readBootId()
const OTHER_BOOT = '00000000-0000-4000-8000-000000000000'
const CHUNKS = 21

function setUp(t: Test) {
  const directory = scratch(t)
  const data = path.join(directory, 'x.blob.data')
  const open = (bootId = BOOT, logger = silentLogger) => ReadyMaps.open(data, CHUNKS, bootId, logger)
  return { data, open, durable: `${data}.chunk_map`, written: path.join(directory, 'x.blob.written') }
}

const chunksOf = (maps: ReadyMaps) => Array.from({ length: CHUNKS }, (_, i) => i).filter(i => maps.has(i))

t.test('written counts within a boot, durable always', async t => {
  const { open } = setUp(t)
  const first = open()
  for (const chunk of [0, 7, 8, 20]) first.setWritten(chunk)
  await first.setDurable([7, 20])
  first.close()
  const same = open()
  t.same(chunksOf(same), [0, 7, 8, 20])
  t.same(same.notDurable(), [0, 8])
  same.close()
  const other = open(OTHER_BOOT)
  t.same(chunksOf(other), [7, 20])
  other.setWritten(3)
  other.close()
  const back = open()
  t.same(chunksOf(back), [7, 20], 'and nothing of the boot in between')
  back.close()
})

t.test("the durable level is upstream's file", async t => {
  const { open, durable } = setUp(t)
  const maps = open()
  await maps.setDurable([0, 9])
  const file = readFileSync(durable)
  t.equal(file.length, 4096 + 3)
  t.equal(file.subarray(0, 16).toString('hex'), '50414d420100000050414d4300000000')
  t.same([...file.subarray(4096)], [0x80, 0x40, 0])
  await maps.setDurable(Array.from({ length: CHUNKS }, (_, i) => i))
  t.equal(readFileSync(durable).subarray(12, 16).toString('hex'), '50414d4d', 'the all-ready marker')
  t.same([...readFileSync(durable).subarray(4096)], [0xff, 0xff, 0xf8])
  maps.close()
  const marked = readFileSync(durable).fill(0, 4096)
  writeFileSync(durable, marked)
  const again = open(OTHER_BOOT)
  t.ok(again.complete && again.durable, 'the marker alone says that all is ready')
  again.close()
})

t.test('a map that is not well formed is not trusted, and said so', t => {
  const { open, durable, written } = setUp(t)
  const damage: [string, (file: Buffer) => Buffer][] = [
    ['short', file => file.subarray(0, -1)],
    ['long', file => Buffer.concat([file, Buffer.alloc(1)])],
    ['magic', file => file.fill(0xee, 0, 4)],
    ['version', file => file.fill(7, 4, 5)],
    ['marker', file => file.fill(7, 12, 13)],
    ['garbage', file => file.fill(0xff)],
  ]
  for (const [name, change] of damage) {
    for (const target of [durable, written]) {
      const maps = open()
      maps.setWritten(5)
      void maps.setDurable([5])
      maps.close()
      const others = [durable, written].filter(file => file !== target)
      for (const file of others) writeFileSync(file, '')
      writeFileSync(target, change(readFileSync(target)))
      const lines: string[] = []
      const found = open(BOOT, pino({ base: null }, { write: line => lines.push(line) }))
      t.same(chunksOf(found), [], `${name} in ${path.basename(target)}`)
      t.ok(lines.some(line => line.includes(path.basename(target))))
      found.setWritten(1)
      found.close()
      const later = open()
      t.same(chunksOf(later), [1], 'it is begun anew')
      later.close()
      truncateSync(durable, 0)
      truncateSync(written, 0)
    }
  }
  t.end()
})

t.test('chunks that no image asks for do not count', async t => {
  const { open } = setUp(t)
  const maps = open()
  t.notOk(maps.complete)
  maps.expect(chunk => chunk % 2 === 0)
  for (let chunk = 0; chunk < CHUNKS; chunk += 2) {
    t.notOk(maps.complete)
    maps.setWritten(chunk)
  }
  t.ok(maps.complete)
  t.notOk(maps.durable)
  await maps.setDurable(maps.notDurable())
  t.ok(maps.durable)
  maps.expect(() => true)
  t.notOk(maps.complete || maps.durable)
  maps.close()
})

t.test('what did not reach the disk is taken back from the file', t => {
  const { open } = setUp(t)
  const maps = open()
  for (const chunk of [1, 2, 3]) maps.setWritten(chunk)
  maps.distrust([2])
  maps.close()
  const again = open()
  t.same(chunksOf(again), [1, 3])
  again.close()
  t.end()
})

t.test('forget', t => {
  const { data, open, durable, written } = setUp(t)
  open().close()
  t.ok(existsSync(durable) && existsSync(written))
  ReadyMaps.forget(data)
  t.notOk(existsSync(durable) || existsSync(written))
  t.end()
})
