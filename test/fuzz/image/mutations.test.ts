/**
 * Random mutations of images of every form, for each codec that reads them: whatever the bytes are, the answer is a result
 * or a fault, soon, and in memory bounded by what was read. FUZZ_RUNS sets how many, FUZZ_SEED repeats a run.
 */
import t from 'tap'
import { RafsLayout } from '../../../src/cache/rafs-layout.js'
import { MemorySource } from '../../../src/common/byte-source.js'
import { UnitCipher, compress, decompress } from '../../../src/common/codec.js'
import { parseStoredMeta, storedMetaRange } from '../../../src/erofs/blob-meta.js'
import { Bootstrap } from '../../../src/erofs/bootstrap.js'
import { parseChunkInfos } from '../../../src/erofs/chunk-info.js'
import { loadImage } from '../../../src/erofs/load-image.js'
import { extractBootstrap, readSections, readToc } from '../../../src/erofs/toc.js'
import { loadImageV5 } from '../../../src/erofs/v5/reader.js'
import { checkBootstrap } from '../../../src/image/read/check.js'
import { type BuiltForm, CIPHER, buildForms } from '../../helpers/built-forms.js'
import { fuzzRuns, mutate, mutations } from '../../helpers/fuzz.js'

interface Codec {
  readonly name: string
  readonly bytes: Buffer
  /** Where fields are: the other bytes are hit too, but less often. */
  readonly hot: readonly number[]
  readonly read: (bytes: Buffer) => void
  /** Bytes that the result itself may have, beside what 4 times the input allows. */
  readonly resultBytes?: number
}

const forms = await buildForms({ files: 4 })
for (const codec of [...forms.flatMap(codecsOf), ...chunkCodecs()]) {
  t.test(codec.name, async t => {
    codec.read(codec.bytes)
    const { bytes, hot, read, resultBytes = 0 } = codec
    fuzzRuns(t, mutations(bytes.length, hot), mutation => read(mutate(bytes, mutation)), {
      runs: 10_000,
      maxBytes: 4 * bytes.length + resultBytes,
    })
  })
}

function codecsOf(form: BuiltForm): Codec[] {
  const { name, bootstrap } = form
  const blob = form.blobs.values().next().value ?? Buffer.alloc(0)
  if (form.version === 5) {
    const read = (bytes: Buffer) => void loadImageV5(new MemorySource(bytes), { verifyDigests: true })
    const check = (bytes: Buffer) => void checkBootstrap(new MemorySource(bytes))
    const hot = range(0, 80).concat(range(8192, bootstrap.length - 8192))
    // The bootstraps of all compressors are of one make.
    if (name !== 'v5 zstd') return []
    return [
      { name: `bootstrap ${name}`, bytes: bootstrap, hot, read },
      { name: `check ${name}`, bytes: bootstrap, hot, read: check },
    ]
  }
  const opened = Bootstrap.open(new MemorySource(bootstrap))
  const entry = opened.blobs[0]
  if (entry === undefined) throw new Error('no blob')
  const codecs: Codec[] = []
  if (name === 'v6 zstd' || name === 'v6 zstd encrypt') {
    const meta = opened.superblock.metaOffset + 4096
    const hot = range(1024, 1408 + 128 - 1024).concat(range(4096, 300), range(meta, bootstrap.length - meta))
    const read = (bytes: Buffer) => void loadImage(new MemorySource(bytes))
    const check = (bytes: Buffer) => void checkBootstrap(new MemorySource(bytes))
    codecs.push({ name: `bootstrap ${name}`, bytes: bootstrap, hot, read })
    codecs.push({ name: `check ${name}`, bytes: bootstrap, hot, read: check })
  }
  const { offset, length } = storedMetaRange(entry)
  const stored = blob.subarray(offset, offset + length)
  codecs.push({
    name: `blob meta ${name}`,
    bytes: stored,
    hot: range(0, stored.length - 4096 + 64),
    read: bytes => useMeta(bytes, () => parseStoredMeta(entry, bytes)),
    // A batch or a lying count may stand for as much as the entry declares.
    resultBytes: entry.ciUncompressedSize,
  })
  if (entry.ciCompressor === 'none') {
    const infos = stored.subarray(0, entry.ciUncompressedSize)
    const read = (bytes: Buffer) => void parseChunkInfos(entry, bytes)
    codecs.push({ name: `chunk infos ${name}`, bytes: infos, hot: range(0, infos.length), read })
  }
  if (name !== 'v6 zstd inline') return codecs
  const end = range(blob.length - 512 - 5 * 128, 512 + 5 * 128)
  const read = (bytes: Buffer): void => {
    const source = new MemorySource(bytes)
    readSections(source)
    readToc(source)
    extractBootstrap(source)
  }
  // The inlined bootstrap unpacks to what its entry says, and no more.
  return [...codecs, { name: 'sections, TOC', bytes: blob, hot: end, read, resultBytes: bootstrap.length }]

  function useMeta(_: Buffer, parse: () => ReturnType<typeof parseStoredMeta>): void {
    if (entry === undefined) return
    const layout = new RafsLayout(entry, parse(), opened.chunkDigests(0), { validate: true })
    for (let chunk = 0; chunk < layout.chunkCount; chunk++) {
      const { storedOffset, storedLength, firstChunk, chunkCount } = layout.extentOf(chunk)
      if (storedOffset + storedLength > entry.compressedSize)
        throw new Error(`chunk ${chunk} beyond the blob`)
      if (firstChunk > chunk || firstChunk + chunkCount <= chunk)
        throw new Error(`chunk ${chunk} is elsewhere`)
    }
  }
}

function chunkCodecs(): Codec[] {
  const plain = Buffer.from(Array.from({ length: 4096 }, (_, i) => (i >> 3) & 0x1f))
  const codecs: Codec[] = []
  for (const compressor of ['zstd', 'lz4_block'] as const) {
    const bytes = Buffer.from(compress(compressor, plain))
    const read = (stored: Buffer): void => {
      const out = decompress(compressor, stored, plain.length)
      if (out.length !== plain.length) throw new Error(`${out.length} bytes came out`)
    }
    const hot = range(0, bytes.length)
    codecs.push({ name: `chunk ${compressor}`, bytes, hot, read, resultBytes: plain.length })
  }
  const cipher = new UnitCipher(CIPHER.key, CIPHER.iv)
  const bytes = Buffer.from(cipher.encrypt(compress('zstd', plain)))
  const read = (stored: Buffer) => void decompress('zstd', cipher.decrypt(stored), plain.length)
  codecs.push({
    name: 'chunk encrypted',
    bytes,
    hot: range(0, bytes.length),
    read,
    resultBytes: plain.length,
  })
  return codecs
}

function range(start: number, length: number): number[] {
  return Array.from({ length: Math.max(0, length) }, (_, i) => start + i)
}
