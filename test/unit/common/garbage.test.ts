import v8 from 'node:v8'
import t from 'tap'
import { collectGarbage, keepYoungSpaceSmall, limitBufferGarbage } from '../../../src/common/garbage.js'

const MIB = 2 ** 20

t.test('buffers that nobody holds are collected beyond the bound', async t => {
  const kept = Buffer.alloc(MIB, 1)
  limitBufferGarbage(0)
  const before = process.memoryUsage().arrayBuffers
  for (let i = 0; i < 8; i++) Buffer.alloc(MIB)
  limitBufferGarbage(64 * MIB)
  t.ok(process.memoryUsage().arrayBuffers >= before + 7 * MIB)
  limitBufferGarbage(4 * MIB)
  t.ok(process.memoryUsage().arrayBuffers < before + MIB)
  t.equal(kept[0], 1)
})

t.test('young garbage can be collected alone', async t => {
  const before = process.memoryUsage().arrayBuffers
  for (let i = 0; i < 4; i++) Buffer.alloc(MIB)
  collectGarbage('young')
  collectGarbage('young')
  t.ok(process.memoryUsage().arrayBuffers < before + 2 * MIB)
})

t.test('the space for young objects stays small while much is kept', async t => {
  const youngBytes = (): number =>
    v8.getHeapSpaceStatistics().find(space => space.space_name === 'new_space')?.space_size ?? NaN
  keepYoungSpaceSmall()
  const before = youngBytes()
  const kept: object[] = []
  for (let i = 0; i < 500_000; i++) kept.push({ i, text: `${i}` })
  t.ok(youngBytes() <= before, `${youngBytes()} bytes after ${before}`)
  t.equal(kept.length, 500_000)
})
