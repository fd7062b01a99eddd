import { randomBytes } from 'node:crypto'
import t from 'tap'
import { MemorySource } from '../../../../src/common/byte-source.js'
import type { ImageChunk } from '../../../../src/erofs/image-tree.js'
import { loadImage } from '../../../../src/erofs/load-image.js'
import { ChunkReader } from '../../../../src/image/read/chunk-reader.js'
import { walkTree } from '../../../../src/image/read/walk-tree.js'
import { MemoryBlobs } from '../../../helpers/memory-blobs.js'
import type { TestImageOptions } from '../../../helpers/rafs-blob.js'
import { buildImage } from '../../../helpers/rafs-image.js'

const contents = [randomBytes(9000), Buffer.from('text '.repeat(3000)), randomBytes(7), Buffer.alloc(4096)]
const nodes = contents.map((data, index) => ({ name: `f${index}`, mode: 0o100644, data }))
const key = { key: randomBytes(32), iv: randomBytes(16) }
const forms: TestImageOptions[] = [
  { compressor: 'zstd' },
  { compressor: 'lz4_block', digester: 'sha256' },
  { compressor: 'none' },
  { compressor: 'zstd', v2: true, batch: 4 },
  { compressor: 'lz4_block', v2: true, key },
  { compressor: 'zstd', v2: true, key, batch: 3 },
]

function open(options: TestImageOptions, damage: (blob: Buffer) => void = () => undefined) {
  const built = buildImage(nodes, options)
  const image = loadImage(new MemorySource(built.bootstrap))
  const blob = Buffer.from(built.blob)
  damage(blob)
  const blobs = new MemoryBlobs(new Map([[built.blobId, blob]]))
  const files: (readonly ImageChunk[])[] = []
  for (const { inode } of walkTree(image.root)) if (inode.type === 'regular') files.push(inode.chunks)
  return { reader: new ChunkReader(blobs), files, blobs }
}

async function readFile(reader: ChunkReader, chunks: readonly ImageChunk[]): Promise<Buffer> {
  const pieces: Uint8Array[] = []
  for (const chunk of chunks) pieces.push(await reader.read(chunk))
  return Buffer.concat(pieces)
}

for (const options of forms) {
  const name = JSON.stringify({ ...options, key: options.key && 'yes' })
  t.test(`files of ${name}, forwards and backwards`, async t => {
    const { reader, files } = open(options)
    for (const [index, chunks] of files.entries())
      t.equal(Buffer.compare(await readFile(reader, chunks), contents[index] ?? Buffer.alloc(0)), 0)
    for (const chunk of files.flat().reverse())
      t.equal((await reader.read(chunk)).length, chunk.uncompressedSize)
  })

  t.test(`damaged chunk data of ${name} gives a fault and no bytes`, async t => {
    const { reader, files } = open(options, blob => {
      for (let at = 0; at < 3000; at += 100) blob[at] = (blob[at] ?? 0) ^ 0x55
    })
    await t.rejects(readFile(reader, files[0] ?? []), { code: /CHUNK_/ })
  })
}

t.test('a reader that goes forward fetches ahead, one that jumps does not', async t => {
  const { reader, files, blobs } = open({ compressor: 'none' })
  const chunks = files.flat()
  for (const chunk of chunks) await reader.read(chunk)
  t.ok(blobs.reads.length < chunks.length, `${blobs.reads.length} reads of ${chunks.length} chunks`)
  const [first, last] = [chunks[0], chunks.at(-1)]
  if (first === undefined || last === undefined) return
  const jumping = new ChunkReader(blobs)
  await jumping.read(last)
  await jumping.read(first)
  t.equal(blobs.reads.at(-1)?.length, first.uncompressedSize)
})

t.test('a bootstrap and a blob that are not of one image', async t => {
  const other = buildImage([{ name: 'a', mode: 0o100644, data: randomBytes(9000) }], { compressor: 'none' })
  const { files } = open({ compressor: 'none' })
  const [chunk] = files.flat()
  if (chunk === undefined) return
  const reader = new ChunkReader({ open: () => new MemoryBlobs(new Map([['x', other.blob]])).open('x') })
  await t.rejects(reader.read(chunk), { code: /BLOB_META_INVALID|RAFS_TRUNCATED/ })
})
