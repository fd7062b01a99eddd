import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { detectFormat, parseSuperblock } from '../../../src/erofs/superblock.js'
import { patched } from '../../helpers/patch.js'
import { buildImage } from '../../helpers/rafs-image.js'

const { bootstrap, nids, chunkTable, metaOffset } = buildImage([
  { name: 'file', mode: 0o100644, data: Buffer.alloc(5000, 1) },
])

t.test('a bootstrap', async t => {
  const source = new MemorySource(bootstrap)
  t.equal(detectFormat(source), 'rafs-v6')
  t.match(parseSuperblock(source), {
    blockSize: 4096,
    rootNid: nids.get(''),
    inos: 2,
    metaOffset,
    deviceCount: 1,
    explicitUidGid: true,
    compressor: 'zstd',
    digester: 'blake3',
    chunkSize: 4096,
    blobTable: { offset: 4096, size: 256 },
    chunkTable: { offset: chunkTable, size: 160 },
    prefetchTable: { offset: 0, size: 0 },
  })
})

t.test('what is not a v6 bootstrap is told apart', async t => {
  const plain = patched(bootstrap, 1032, 4, 0)
  t.equal(detectFormat(new MemorySource(plain)), 'erofs')
  t.throws(() => parseSuperblock(new MemorySource(plain)), { code: 'RAFS_NOT_RAFS', message: /plain EROFS/ })
  const v5 = patched(patched(Buffer.alloc(8192), 0, 4, 0x52414653), 4, 4, 0x500)
  t.equal(detectFormat(new MemorySource(v5)), 'rafs-v5')
  t.throws(() => parseSuperblock(new MemorySource(v5)), { code: 'RAFS_UNSUPPORTED', message: /v5.*FUSE/ })
  for (const bytes of [Buffer.alloc(0), Buffer.from('<html>'), Buffer.alloc(8192)]) {
    t.equal(detectFormat(new MemorySource(bytes)), 'unknown')
    t.throws(() => parseSuperblock(new MemorySource(bytes)), { code: 'RAFS_NOT_RAFS' })
  }
})

t.test('unknown features are refused by name', async t => {
  const cases: [number, 1 | 2 | 4 | 8, number | bigint, RegExp][] = [
    [1104, 4, 0xc | 0x10 | 0x20, /ztailpacking, fragments .*update nydus-ts/],
    [1104, 4, 0x1000000c, /bit 0x10000000/],
    [1036, 1, 9, /tarfs/],
    [1152, 8, 0x394, /tarfs/],
    [1152, 8, 0x1194, /bit 0x1000/],
    [1152, 8, 0x100000194n, /bits 0x100000000/],
  ]
  for (const [offset, width, value, message] of cases) {
    const source = new MemorySource(patched(bootstrap, offset, width, value))
    t.throws(() => parseSuperblock(source), { code: 'RAFS_UNSUPPORTED', message })
  }
})

t.test('reserved compatible flags are ignored', async t => {
  const source = new MemorySource(patched(bootstrap, 1152, 8, 0xfc000094n))
  t.equal(parseSuperblock(source).compressor, 'zstd')
})

t.test('each bad field is named with its value and offset', async t => {
  const cases: [string, number, 1 | 2 | 4 | 8, number | bigint][] = [
    ['feature_incompat', 1104, 4, 0x8],
    ['blkszbits', 1036, 1, 13],
    ['checksum', 1028, 4, 77],
    ['ext_slots', 1037, 1, 1],
    ['xattr_blkaddr', 1068, 4, 3],
    ['compression', 1108, 2, 1],
    ['devt_slotoff', 1112, 2, 12],
    ['inos', 1040, 8, 0],
    ['inos', 1040, 8, 2n ** 60n],
    ['meta_blkaddr', 1064, 4, 0xffffffff],
    ['flags', 1152, 8, 0x97],
    ['flags', 1152, 8, 0x9d],
    ['flags', 1152, 8, 0x14],
    ['chunk_size', 1172, 4, 5000],
    ['chunk_size', 1172, 4, 0x2000000],
    ['blob_table_size', 1168, 4, 512],
    ['blob_table_offset', 1160, 8, 100],
    ['blob_table_offset', 1160, 8, 2n ** 40n],
    ['blob_table_offset', 1160, 8, 2n ** 63n],
    ['chunk_table_offset', 1176, 8, 1024],
    ['chunk_table_offset', 1176, 8, 4096],
    ['chunk_table_size', 1184, 8, 81],
    ['chunk_table_size', 1184, 8, 2n ** 62n],
  ]
  for (const [field, offset, width, value] of cases) {
    const source = new MemorySource(patched(bootstrap, offset, width, value))
    try {
      parseSuperblock(source)
      t.fail(`${field} = ${value} is accepted`)
    } catch (err) {
      t.match(err, { code: 'RAFS_FIELD', context: { field, offset } }, `${field} = ${value}`)
      t.match((err as Error).message, /field .* at byte \d+ is .*: /)
    }
  }
})

t.test('a prefetch table must not overlap', async t => {
  let bytes = patched(bootstrap, 1192, 8, 4096 + 128)
  bytes = patched(bytes, 1200, 4, 8)
  t.throws(() => parseSuperblock(new MemorySource(bytes)), {
    code: 'RAFS_FIELD',
    message: /overlaps the table at byte 4096/,
  })
  const noOffset = patched(bootstrap, 1200, 4, 8)
  t.same(parseSuperblock(new MemorySource(noOffset)).prefetchTable, { offset: 0, size: 0 })
})

t.test('more devices than blob indexes can name', async t => {
  const bytes = patched(Buffer.concat([bootstrap, Buffer.alloc(1 << 20)]), 1110, 2, 300)
  t.throws(() => parseSuperblock(new MemorySource(bytes)), { code: 'RAFS_FIELD' })
})

t.test('a file cut short says so', async t => {
  const cut = new MemorySource(bootstrap.subarray(0, bootstrap.length - 100))
  t.throws(() => parseSuperblock(cut), { code: 'RAFS_TRUNCATED', message: /multiple of 4096/ })
  t.throws(() => parseSuperblock(new MemorySource(bootstrap.subarray(0, 1200))), { code: 'RAFS_TRUNCATED' })
})
