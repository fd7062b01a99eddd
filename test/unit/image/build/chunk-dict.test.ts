import t from 'tap'
import { MemorySource } from '../../../../src/common/byte-source.js'
import { encodeImage } from '../../../../src/erofs/encode-image.js'
import { ChunkDict, requireSameKind } from '../../../../src/image/build/chunk-dict.js'
import { directory, newBlob, newChunk, regular } from '../../../helpers/made-tree.js'

const kind = { version: 6, chunkSize: 4096, digester: 'sha256', explicitOwners: true } as const

t.test('a chunk is found by digest and size', async t => {
  const [a, b] = [newBlob('a'), newBlob('b')]
  const shared = newChunk(a, 1)
  const root = directory({
    one: regular([shared, newChunk(a, 2)]),
    same: regular([newChunk(b, 1)]),
    unknown: regular([newChunk(b, -1)]),
  })
  const dict = new ChunkDict(
    new MemorySource(encodeImage({ ...kind, compressor: 'none', root, prefetch: [] }).bytes),
  )
  t.same(dict.kind, kind)
  t.same(
    dict.blobs.map(({ id }) => id),
    [a.id, b.id],
  )
  t.equal(dict.size, 2, 'a digest counts once, a chunk without one not at all')
  t.match(dict.find(shared.digest, 100), { index: 0, uncompressedOffset: 0, blob: { id: a.id } })
  t.equal(dict.find(shared.digest, 101), undefined)
  t.equal(dict.find('0'.repeat(64), 100), undefined)
})

t.test('images of another kind are refused', async t => {
  requireSameKind('x', kind, kind, 'sha256')
  const others = [
    { version: 5 },
    { chunkSize: 8192 },
    { explicitOwners: false },
    { digester: 'blake3' },
  ] as const
  for (const other of others)
    t.throws(() => requireSameKind('x', { ...kind, ...other }, kind, 'sha256'), { code: 'IMAGE_MISMATCH' })
  requireSameKind('x', { ...kind, digester: 'blake3' }, kind)
})
