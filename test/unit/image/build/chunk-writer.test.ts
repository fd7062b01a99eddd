import path from 'node:path'
import t, { type Test } from 'tap'
import { UnitCipher } from '../../../../src/common/codec.js'
import type { BlobOutput } from '../../../../src/image/build/blob-output.js'
import { BlobStream } from '../../../../src/image/build/blob-stream.js'
import { type ChunkOptions, ChunkWriter } from '../../../../src/image/build/chunk-writer.js'
import { CompressPool } from '../../../../src/image/build/compress-pool.js'
import type { BlobCipher, ImageBlob } from '../../../../src/erofs/image-tree.js'
import { type LayerOptions, buildLayer } from '../../../../src/image/build/build-layer.js'
import { DEFAULT_LIMITS } from '../../../../src/image/tar/limits.js'
import { scratch } from '../../../helpers/scratch.js'
import { type TarItem, pieces, tarBytes } from '../../../helpers/tar-bytes.js'
import { newBlob } from '../../../helpers/made-tree.js'

const pool = new CompressPool()
t.teardown(() => pool.close())

const cipher: BlobCipher = { key: Buffer.from(Array.from({ length: 32 }, (_, i) => i)), iv: Buffer.alloc(16) }

interface Written {
  writer: ChunkWriter
  blob: ImageBlob
  stored: () => Buffer
}

function open(options: Partial<ChunkOptions> = {}, more: Partial<ImageBlob> = {}, start = 0): Written {
  const parts: Buffer[] = []
  const output: BlobOutput = {
    write: async bytes => void parts.push(Buffer.from(bytes)),
    finish: async id => id,
    abort: async () => undefined,
  }
  const blob = newBlob('a', more)
  const writer = new ChunkWriter(
    new BlobStream(output, start),
    blob,
    { aligned: true, batchSize: 0, ...options },
    pool,
  )
  return { writer, blob, stored: () => Buffer.concat(parts) }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

/** A file of one letter: one chunk where it is not longer than 4096 bytes. */
const add = ({ writer }: Written, letter: string, size: number) =>
  writer.addFile(once(Buffer.alloc(size, letter)), size)

const places = ({ writer }: Written) =>
  writer.chunks.map(({ uncompressedOffset, compressedOffset, compressedSize, batch }) => [
    uncompressedOffset,
    compressedOffset,
    compressedSize,
    batch && `${batch.batch.index}+${batch.offset}`,
  ])

t.test('files are cut into chunks, and equal ones stored once', async t => {
  const written = open()
  const first = await add(written, 'a', 10_000)
  const second = await add(written, 'a', 4096)
  t.equal(first.length, 3)
  t.equal(first[0], first[1])
  t.same(second, [first[0]])
  t.same(await add(written, 'x', 0), [])
  await written.writer.flush()
  t.same(places(written), [
    [0, 0, 4096, undefined],
    [4096, 4096, 1808, undefined],
  ])
  t.equal(written.stored().length, 5904)
  t.equal(written.blob.chunkCount, 2)
})

t.test('packed places, and a blob that is part of something bigger', async t => {
  const written = open({ aligned: false }, {}, 1000)
  for (const letter of 'abc') await add(written, letter, 100)
  await written.writer.flush()
  t.same(places(written), [
    [0, 1000, 100, undefined],
    [100, 1100, 100, undefined],
    [200, 1200, 100, undefined],
  ])
  t.equal(written.blob.uncompressedSize, 300)
})

t.test('small files become batches, which any larger one ends', async t => {
  const written = open({ batchSize: 1024 })
  for (const letter of 'abcd') await add(written, letter, 300)
  await add(written, 'L', 512)
  await add(written, 'e', 511)
  await add(written, 'f', 512)
  await add(written, 'g', 10)
  await add(written, 'h', 20)
  await written.writer.flush()
  t.same(
    places(written).map(([, ...place]) => place),
    [
      [0, 0, '0+0'],
      [0, 0, '0+300'],
      [0, 0, '0+600'],
      [900, 300, undefined],
      [1200, 512, undefined],
      [1712, 511, undefined],
      [2223, 512, undefined],
      [2735, 0, '1+0'],
      [2735, 0, '1+10'],
    ],
    'one that stays alone is no batch',
  )
  t.same(written.writer.batches, [
    { index: 0, compressedSize: 900, uncompressedSize: 900 },
    { index: 1, compressedSize: 30, uncompressedSize: 30 },
  ])
})

t.test('encrypted units can be told from compressed ones by their sizes', async t => {
  for (const compressor of ['none', 'zstd', 'lz4_block'] as const) {
    const written = open({}, { cipher, compressor })
    const sizes = [1, 15, 16, 17, 18, 19, 100, 4096]
    for (const [i, size] of sizes.entries()) await add(written, String(i), size)
    await written.writer.flush()
    const unit = new UnitCipher(cipher.key, cipher.iv)
    for (const chunk of written.writer.chunks) {
      const { compressedOffset, compressedSize, uncompressedSize } = chunk
      const plain = unit.decrypt(
        written.stored().subarray(compressedOffset, compressedOffset + compressedSize),
      )
      const raw = Buffer.from(plain).equals(Buffer.alloc(uncompressedSize, plain[0]))
      const compressed = compressedSize < uncompressedSize
      t.equal(raw, !compressed, `${compressor} ${uncompressedSize}`)
      if (uncompressedSize < 16) t.equal(compressedSize, 18)
    }
  }
  const tiny = open({ batchSize: 4096 }, { cipher })
  for (const letter of 'abc') await add(tiny, letter, 4)
  await tiny.writer.flush()
  t.same(
    tiny.writer.chunks.map(chunk => chunk.batch),
    [undefined, undefined, undefined],
    'a batch of 12 bytes would look compressed',
  )
})

t.test('known chunks are not stored', async t => {
  const other = open()
  const [known] = await add(other, 'k', 50)
  const find: NonNullable<ChunkOptions['known']>['find'] = (digest, size) =>
    digest === known?.digest && size === 50 ? known : undefined
  const written = open({ known: { find } })
  t.same(await add(written, 'k', 50), [known])
  t.equal((await add(written, 'k', 51))[0]?.blob, written.blob)
  await written.writer.flush()
  t.equal(written.stored().length, 51)
})

t.test('a body that is not as long as was said, and a writer that fails', async (t: Test) => {
  const written = open()
  await t.rejects(written.writer.addFile(once(Buffer.alloc(10)), 11), { code: 'TAR_INVALID' })
  const closed = new CompressPool()
  await closed.close()
  const blob = newBlob('a', { compressor: 'zstd' })
  const output: BlobOutput = {
    write: async () => undefined,
    finish: async id => id,
    abort: async () => undefined,
  }
  const writer = new ChunkWriter(new BlobStream(output, 0), blob, { aligned: true, batchSize: 0 }, closed)
  await writer.addFile(once(Buffer.alloc(10)), 10)
  await t.rejects(writer.flush(), { code: 'CANCELLED' })
})

const MIB = 1 << 20

function sparseFile(name: string, sizeBytes: number, dataAt: number, body: Buffer): TarItem {
  const pax = {
    'GNU.sparse.size': String(sizeBytes),
    'GNU.sparse.numblocks': '1',
    'GNU.sparse.map': `${dataAt},${body.length}`,
  }
  return { name, body, pax }
}

t.test('a hole is one chunk of zeros, many times', async t => {
  const directory = scratch(t)
  const options: LayerOptions = {
    chunkSize: MIB,
    compressor: 'zstd',
    digester: 'sha256',
    version: 6,
    batchSize: 0,
    limits: DEFAULT_LIMITS,
  }
  const sizeBytes = 40 * 2 ** 30
  const archive = tarBytes([
    sparseFile('huge', sizeBytes + 5, 2 ** 30 + 7, Buffer.from('data')),
    { name: 'zeros', body: Buffer.alloc(MIB + 5) },
  ])
  const layer = await buildLayer(pieces(archive), path.join(directory, 'blob'), options, pool)
  const [huge, zeros] = ['huge', 'zeros'].map(name => layer.root.children.get(name))
  if (huge?.type !== 'regular' || zeros?.type !== 'regular') throw new Error('the files are missing')
  t.equal(huge.chunks.length, sizeBytes / MIB + 1)
  t.equal(layer.blob?.chunkCount, 3, 'zeros, what holds the data, and the five bytes at the end')
  t.equal(huge.chunks[0], zeros.chunks[0], 'zeros that are stored are the same')
  t.equal(huge.chunks.at(-1), zeros.chunks[1])
  t.not(huge.chunks[1024], huge.chunks[0])
  t.ok(layer.sizeBytes < 10_000)
})
