import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import t from 'tap'
import { MemorySource } from '../../../src/common/byte-source.js'
import { hasFeature, requireServable } from '../../../src/erofs/blob-table.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { PLACEHOLDER_BLOB_ID } from '../../../src/erofs/format.js'
import { patched } from '../../helpers/patch.js'
import { BLOB_TABLE, buildImage } from '../../helpers/rafs-image.js'

const tree = [{ name: 'file', mode: 0o100644, data: randomBytes(9000) }]
const image = buildImage(tree)
const open = (bytes: Uint8Array) => Bootstrap.open(new MemorySource(bytes))

t.test('an entry and its device', async t => {
  const { blobs, devices } = open(image.bootstrap)
  t.match(blobs[0], {
    index: 0,
    blobId: image.blobId,
    chunkSize: 4096,
    chunkCount: 3,
    compressor: 'zstd',
    digester: 'blake3',
    compressedSize: image.blob.length,
    uncompressedSize: 12288,
    tocSize: 0,
    ciCompressor: 'zstd',
    ciUncompressedSize: 48,
    metaSize: 0,
    cipher: undefined,
  })
  t.same(devices, [{ tag: image.blobId, blocks: 3, mappedBlock: 0 }])
})

t.test('the key of an encrypted blob shows nowhere', async t => {
  const key = { key: randomBytes(32), iv: randomBytes(16) }
  const { blobs } = open(buildImage(tree, { v2: true, key }).bootstrap)
  const blob = blobs[0]
  t.ok(blob?.cipher)
  t.equal(blob?.metaDigest, undefined)
  const shown = JSON.stringify(blob) + inspect(blob, { depth: 9, showHidden: true })
  for (const secret of [key.key, key.iv]) t.notOk(shown.includes(secret.toString('hex').slice(0, 16)))
  t.notMatch(shown, new RegExp(`${key.key[0]}, *${key.key[1]}, *${key.key[2]}`))
})

t.test('bad fields', async t => {
  const cases: [string, number, 1 | 2 | 4 | 8, number | bigint][] = [
    ['blob_id', 0, 1, 0x2f],
    ['blob_index', 64, 4, 1],
    ['chunk_size', 68, 4, 8192],
    ['chunk_count', 72, 4, 0x1000001],
    ['compressor', 76, 4, 4],
    ['digester', 80, 4, 2],
    ['features', 84, 4, 0x80000001],
    ['features', 84, 4, 0x40000000],
    ['features', 84, 4, 0x40000081],
    ['compressed_size', 88, 8, 2n ** 41n],
    ['uncompressed_size', 96, 8, 2n ** 45n],
    ['ci_compressor', 108, 4, 9],
    ['ci_offset', 112, 8, 2n ** 41n],
    ['ci_compressed_size', 120, 8, 49],
    ['ci_uncompressed_size', 128, 8, 64],
    ['cipher_algo', 216, 4, 1],
  ]
  for (const [field, offset, width, value] of cases) {
    t.throws(() => open(patched(image.bootstrap, BLOB_TABLE + offset, width, value)), {
      code: 'RAFS_FIELD',
      context: { field, offset: BLOB_TABLE + offset },
    })
  }
  t.throws(() => open(patched(image.bootstrap, BLOB_TABLE + 84, 4, 0x40001001)), {
    code: 'RAFS_UNSUPPORTED',
    message: /bit 0x1000/,
  })
  t.throws(() => open(patched(image.bootstrap, BLOB_TABLE + 216, 4, 2)), {
    code: 'RAFS_UNSUPPORTED',
    message: /aes-256-xts/,
  })
})

t.test('device and blob must agree', async t => {
  t.throws(() => open(patched(image.bootstrap, 1408, 1, 0x78)), {
    code: 'RAFS_FIELD',
    message: /device slot 0/,
  })
  t.throws(() => open(patched(image.bootstrap, 1408, 1, 0)), {
    code: 'RAFS_FIELD',
    context: { field: 'tag' },
  })
  t.throws(() => open(patched(image.bootstrap, 1472, 4, 0)), {
    code: 'RAFS_FIELD',
    context: { field: 'blocks' },
  })
  t.throws(() => open(patched(image.bootstrap, 1472, 4, 2)), { code: 'RAFS_FIELD', message: /device slot 0/ })
})

t.test('a bootstrap out of its own blob has a placeholder', async t => {
  const bytes = Buffer.from(image.bootstrap)
  bytes.write(PLACEHOLDER_BLOB_ID, 1408)
  bytes.write(PLACEHOLDER_BLOB_ID, BLOB_TABLE)
  t.equal(open(bytes).blobs[0]?.blobId, PLACEHOLDER_BLOB_ID)
})

t.test('what cannot be served is refused by name', async t => {
  const cases: [number, number, RegExp][] = [
    [0x0d, 72, /zran/],
    [0x41, 48, /tarfs/],
    [0x11, 48, /tar layers/],
    [0x801, 48, /external/],
  ]
  for (const [features, ciSize, message] of cases) {
    const blob = open(
      patched(patched(image.bootstrap, BLOB_TABLE + 84, 4, features), BLOB_TABLE + 128, 8, ciSize),
    ).blobs[0]
    if (!blob) throw new Error('no blob')
    t.ok(hasFeature(blob, 'aligned'))
    t.throws(() => requireServable(blob), { code: 'RAFS_UNSUPPORTED', message })
  }
  const gzip = open(patched(image.bootstrap, BLOB_TABLE + 76, 4, 2)).blobs[0]
  t.throws(() => requireServable(gzip!), { code: 'RAFS_UNSUPPORTED', message: /eStargz/ })
  requireServable(open(image.bootstrap).blobs[0]!)
})
