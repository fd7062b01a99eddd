import { randomBytes } from 'node:crypto'
import t from 'tap'
import { MemorySource } from '../../../../src/common/byte-source.js'
import { checkBlob } from '../../../../src/image/read/check-blob.js'
import { checkBootstrap } from '../../../../src/image/read/check.js'
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
  { compressor: 'zstd', v2: true, key, batch: 3 },
]

for (const options of forms) {
  const image = buildImage(nodes, options)
  const check = (blob: Buffer) => {
    const expected = checkBootstrap(new MemorySource(image.bootstrap)).blobs[0]
    if (expected === undefined) throw new Error('no blob')
    return checkBlob(expected, new MemoryBlobs(new Map([[image.blobId, blob]])).open(image.blobId))
  }
  const flipped = (at: number): Buffer => {
    const blob = Buffer.from(image.blob)
    blob[at] = (blob[at] ?? 0) ^ 0x10
    return blob
  }
  t.test(JSON.stringify({ ...options, key: options.key && 'yes' }), async t => {
    const facts = await check(image.blob)
    t.match(facts, { storedBytes: image.blob.length, chunks: 9, unknownChunks: 0 })
    const inPart = (part: string): { code: RegExp; context: object } => ({
      code: /^(CHUNK|BLOB)_/,
      context: { part, blobId: image.blobId },
    })
    for (const at of [0, 5000, 9000]) await t.rejects(check(flipped(at)), inPart('chunk data'), `byte ${at}`)
    const metaHeader = image.blob.length - 4096
    await t.rejects(check(flipped(metaHeader)), inPart('blob meta'))
    await t.rejects(check(flipped(metaHeader + 12)), inPart('blob meta'))
    await t.rejects(check(image.blob.subarray(0, metaHeader)), inPart('blob file'))
  })
}
