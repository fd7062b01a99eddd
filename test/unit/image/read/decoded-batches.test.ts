import t from 'tap'
import { DecodedBatches } from '../../../../src/image/read/decoded-batches.js'

const MIB = 1 << 20

t.test('batches are decoded once while they are among those used last', async t => {
  const batches = new DecodedBatches()
  const decoded: string[] = []
  const ensure = async (blobId: string, offset: number, sizeBytes = 4 * MIB): Promise<void> => {
    const bytes = await batches.ensure(blobId, offset, () => {
      decoded.push(`${blobId}${offset}`)
      return Promise.resolve(new Uint8Array(sizeBytes).fill(offset))
    })
    t.equal(bytes[0], offset)
  }
  for (const offset of [1, 2, 3, 4, 1, 2, 3, 4]) await ensure('a', offset)
  t.same(decoded.splice(0), ['a1', 'a2', 'a3', 'a4'])
  await ensure('b', 1)
  await ensure('a', 2)
  await ensure('a', 1)
  t.same(decoded.splice(0), ['b1', 'a1'], 'the one that was not used for longest went')
  await ensure('c', 9, 20 * MIB)
  await ensure('c', 9, 20 * MIB)
  await ensure('b', 1)
  t.same(decoded, ['c9', 'b1'], 'a large one is kept alone')
})

t.test('what does not decode is asked for again', async t => {
  const batches = new DecodedBatches()
  await t.rejects(
    batches.ensure('a', 1, () => Promise.reject(new Error('damaged'))),
    { message: 'damaged' },
  )
  t.equal((await batches.ensure('a', 1, () => Promise.resolve(new Uint8Array(1)))).length, 1)
})
