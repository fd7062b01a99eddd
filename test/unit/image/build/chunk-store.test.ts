import { createHash } from 'node:crypto'
import t from 'tap'
import { ChunkStore } from '../../../../src/image/build/chunk-store.js'
import { newBlob } from '../../../helpers/made-tree.js'

const digestOf = (seed: number): Buffer => createHash('sha256').update(String(seed)).digest()

t.test('chunks are found by their digests, whatever their number', async t => {
  const blob = newBlob('a')
  const store = new ChunkStore(blob)
  const count = 5000
  for (let i = 0; i < count; i++) {
    t.equal(store.find(digestOf(i)), undefined)
    store.add(digestOf(i), i * 4096, i + 1)
  }
  for (let i = 0; i < count; i++) {
    const chunk = store.find(digestOf(i))
    t.equal(chunk, store.chunks[i])
    if (chunk?.index !== i || chunk.digest !== digestOf(i).toString('hex'))
      t.fail(`chunk ${i} is another one`)
  }
  t.equal(store.find(digestOf(count)), undefined)
})

t.test('digests that begin alike are told apart', async t => {
  const store = new ChunkStore(newBlob('a'))
  const alike = (last: number): Buffer => Buffer.concat([Buffer.alloc(31, 7), Buffer.from([last])])
  for (let last = 0; last < 200; last++) store.add(alike(last), 0, 1)
  for (let last = 0; last < 200; last++) t.equal(store.find(alike(last))?.index, last)
  t.equal(store.find(alike(200)), undefined)
})

t.test('a chunk keeps what is said of it', async t => {
  const blob = newBlob('a')
  const store = new ChunkStore(blob)
  // On a page of its own, and beyond 32 bits.
  for (let i = 0; i < 1500; i++) store.add(digestOf(i), i, 1)
  const chunk = store.add(digestOf(1500), 2 ** 40, 2 ** 24)
  chunk.compressedOffset = 2 ** 39 + 1
  chunk.compressedSize = 77
  const batch = { index: 3, compressedSize: 0, uncompressedSize: 9 }
  chunk.batch = { batch, offset: 5 }
  t.match(chunk, {
    blob,
    index: 1500,
    digest: digestOf(1500).toString('hex'),
    uncompressedOffset: 2 ** 40,
    uncompressedSize: 2 ** 24,
    compressedOffset: 2 ** 39 + 1,
    compressedSize: 77,
    batch: { batch, offset: 5 },
  })
  t.equal(chunk.batch.batch, batch)
  t.match(store.chunks[1499], { uncompressedOffset: 1499, compressedSize: 0, batch: undefined })
})
