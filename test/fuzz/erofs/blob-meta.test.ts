import t from 'tap'
import { RafsLayout } from '../../../src/cache/rafs-layout.js'
import { MemorySource } from '../../../src/common/byte-source.js'
import { parseStoredMeta, storedMetaRange } from '../../../src/erofs/blob-meta.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { extractBootstrap, readSections, readToc } from '../../../src/erofs/toc.js'
import { fuzz, mutate, mutations, onlyFaults } from '../../helpers/fuzz.js'
import type { TestImageOptions } from '../../helpers/rafs-blob.js'
import { buildImage } from '../../helpers/rafs-image.js'

const tree = Array.from({ length: 40 }, (_, i) => ({
  name: `f${i}`,
  mode: 0o100644,
  data: Buffer.alloc(1 + i * 300, `${i} `),
}))
const key = { key: Buffer.from(Array.from({ length: 32 }, (_, i) => i)), iv: Buffer.alloc(16, 9) }
const forms: TestImageOptions[] = [
  { compressor: 'none' },
  { compressor: 'none', v2: true, batch: 5 },
  { compressor: 'zstd', v2: true, batch: 5 },
  { compressor: 'lz4_block', v2: true, key },
]

for (const options of forms) {
  const image = buildImage(tree, options)
  const bootstrap = Bootstrap.open(new MemorySource(image.bootstrap))
  const blob = bootstrap.blobs[0]
  if (blob === undefined) throw new Error('no blob')
  const range = storedMetaRange(blob)
  const stored = image.blob.subarray(range.offset, range.offset + range.length)
  const header = Array.from({ length: 60 }, (_, i) => blob.ciCompressedSize + i)

  /** What the cache asks of a layout must be sane whatever the metadata says. */
  const useLayout = (bytes: Uint8Array): void => {
    const layout = new RafsLayout(blob, parseStoredMeta(blob, bytes), bootstrap.chunkDigests(0), {
      validate: true,
    })
    let end = 0
    for (let chunk = 0; chunk < layout.chunkCount; chunk++) {
      const { offset, length } = layout.chunkRange(chunk)
      if (offset < end || offset % 4096 !== 0 || length < 1) throw new Error(`chunk ${chunk} overlaps`)
      end = offset + length
      const extent = layout.extentOf(chunk)
      const inside = extent.storedOffset + extent.storedLength <= blob.compressedSize
      if (!inside || extent.firstChunk > chunk || extent.firstChunk + extent.chunkCount <= chunk)
        throw new Error(`extent of chunk ${chunk} is wrong`)
      const { first, end: last } = layout.chunksIn(offset, length)
      if (first !== chunk || last !== chunk + 1) throw new Error(`chunk ${chunk} is not found`)
    }
    if (end > layout.uncompressedSize) throw new Error('chunks beyond the blob')
  }

  t.test(`metadata ${options.compressor} ${Object.keys(options).join(' ')}`, async t => {
    const input = mutations(stored.length, header)
    fuzz(t, input, mutation => onlyFaults(() => useLayout(mutate(stored, mutation))), 1200)
  })
}

t.test('sections and table of contents', async t => {
  const header = Buffer.alloc(512)
  header.write('rafs.blob.toc', 0)
  header.write('00000000200\0', 124)
  header.write('0', 156)
  header.write('ustar  \0', 257)
  header.fill(' ', 148, 156)
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(7, '0')}\0`,
    148,
  )
  const entry = Buffer.alloc(128)
  entry.writeUInt32LE(2, 0)
  entry.write('image.boot', 8)
  entry.writeUInt32LE(100, 64)
  entry.writeUInt32LE(4096, 72)
  const blob = Buffer.concat([Buffer.alloc(300, 7), entry, header])
  const read = (bytes: Uint8Array): void => {
    const source = new MemorySource(bytes)
    onlyFaults(() => readSections(source))
    onlyFaults(() => readToc(source))
    onlyFaults(() => extractBootstrap(source))
  }
  const hot = Array.from({ length: 128 }, (_, i) => 300 + i)
  fuzz(t, mutations(blob.length, hot), mutation => onlyFaults(() => read(mutate(blob, mutation))), 1500)
})
