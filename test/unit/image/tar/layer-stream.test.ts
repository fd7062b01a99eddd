import { randomBytes } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { compress } from '../../../../src/common/codec.js'
import { decompressLayer } from '../../../../src/image/tar/layer-stream.js'
import { DEFAULT_LIMITS, type LayerLimits } from '../../../../src/image/tar/limits.js'
import { pieces } from '../../../helpers/tar-bytes.js'

async function decompressAll(
  bytes: Uint8Array,
  limits: Partial<LayerLimits> = {},
  pieceSize?: number,
): Promise<Buffer> {
  const out: Uint8Array[] = []
  for await (const piece of decompressLayer(pieces(bytes, pieceSize), { ...DEFAULT_LIMITS, ...limits }))
    out.push(piece)
  return Buffer.concat(out)
}

const zstd = (bytes: Uint8Array): Buffer => Buffer.from(compress('zstd', bytes))
const content = Buffer.concat([randomBytes(30_000), Buffer.alloc(400_000, 'text ')])

t.test('gzip, zstd and plain archives are told by their bytes', async t => {
  const skippable = Buffer.concat([Buffer.from('502a4d1803000000aaaaaa', 'hex'), zstd(content)])
  const forms = {
    gzip: gzipSync(content),
    members: Buffer.concat([gzipSync(content.subarray(0, 1000)), gzipSync(content.subarray(1000))]),
    zstd: zstd(content),
    frames: Buffer.concat([zstd(content.subarray(0, 1000)), zstd(content.subarray(1000))]),
    skippable,
    plain: content,
  }
  for (const [name, bytes] of Object.entries(forms))
    for (const size of [1 << 20, 777, 13])
      t.equal(Buffer.compare(await decompressAll(bytes, {}, size), content), 0, `${name} in ${size}`)
  const short = Buffer.alloc(3000, 'short ')
  for (const bytes of [gzipSync(short), zstd(short)])
    t.equal(Buffer.compare(await decompressAll(bytes, {}, 1), short), 0, 'byte by byte')
  t.equal((await decompressAll(Buffer.alloc(0))).length, 0)
})

t.test('damaged and cut compression', async t => {
  for (const bytes of [gzipSync(content), zstd(content)]) {
    await t.rejects(decompressAll(bytes.subarray(0, bytes.length - 100)), { code: 'TAR_INVALID' }, 'cut')
    const damaged = Buffer.concat([bytes.subarray(0, 20), Buffer.alloc(1000, 0xff)])
    await t.rejects(decompressAll(damaged), { code: 'TAR_INVALID' }, 'damaged')
  }
  const xz = Buffer.from('fd377a585a000004', 'hex')
  await t.rejects(decompressAll(xz), { code: 'TAR_UNSUPPORTED', message: /xz/ })
  await t.rejects(decompressAll(Buffer.from('BZh91AY&SY')), { code: 'TAR_UNSUPPORTED', message: /bzip2/ })
})

t.test('a bomb is stopped long before its end', async t => {
  const zeros = Buffer.alloc(64 << 20)
  for (const bomb of [gzipSync(zeros), zstd(zeros)]) {
    const limits = { ratioFloorBytes: 1 << 20 }
    await t.rejects(decompressAll(bomb, limits, 65536), { code: 'IMAGE_TOO_LARGE', message: /bomb/ })
    await t.rejects(decompressAll(bomb, { maxBytes: 1 << 20 }), {
      code: 'IMAGE_TOO_LARGE',
      message: /1048576/,
    })
    t.equal((await decompressAll(bomb)).length, zeros.length, 'below the floor any ratio is fine')
  }
  const honest = gzipSync(content)
  t.equal((await decompressAll(honest, { ratioFloorBytes: 0, maxRatio: 50 })).length, content.length)
})

t.test('a fault of the source comes through', async t => {
  for (const bytes of [gzipSync(content), zstd(content), content]) {
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield bytes.subarray(0, 1000)
      throw new Error('connection reset')
    }
    await t.rejects(async () => {
      for await (const piece of decompressLayer(broken(), DEFAULT_LIMITS)) t.ok(piece.length)
    }, /connection reset/)
  }
})

t.test('the source is read to its end, where it checks its digest', async t => {
  for (const bytes of [gzipSync(content), zstd(content), content]) {
    async function* padded(): AsyncGenerator<Uint8Array> {
      yield* pieces(Buffer.concat([bytes, Buffer.alloc(bytes === content ? 0 : 300_000)]))
      throw new Error('wrong digest')
    }
    await t.rejects(
      async () => {
        for await (const piece of decompressLayer(padded(), DEFAULT_LIMITS)) t.ok(piece.length)
      },
      bytes[0] === 0x28 ? { message: /wrong digest|damaged/ } : /wrong digest/,
    )
  }
})
