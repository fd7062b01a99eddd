/** The check of a stored blob against its bootstrap: size, framing, table of contents, metadata, and every chunk. */
import { createHash, type Hash } from 'node:crypto'
import type { BlobReader } from '../../backend/reader.js'
import { asFault } from '../../common/fault.js'
import { type BlobMeta, parseStoredMeta, storedMetaRange } from '../../erofs/blob-meta.js'
import { type BlobEntry, hasFeature } from '../../erofs/blob-table.js'
import * as F from '../../erofs/format.js'
import { checkChunk, decodeUnit, type StoredUnit, storedUnit } from '../../erofs/stored-unit.js'
import { type BlobSections, checkSections } from './check-sections.js'
import { type BlobPart, named, partFault } from './parts.js'
import { StoredWindow } from './stored-window.js'

/** What a bootstrap says of a chunk. */
export interface ExpectedChunk {
  readonly index: number
  /** 32 bytes; undefined where the bootstrap has none. */
  readonly digest: Uint8Array | undefined
  readonly crc32: number | undefined
  readonly uncompressedOffset: number
  readonly uncompressedSize: number
  /** Both 0 where only the blob knows, as for members of a batch. */
  readonly compressedOffset: number
  readonly compressedSize: number
}

/** What a bootstrap says of a blob. */
export interface ExpectedBlob {
  readonly entry: BlobEntry
  /** The chunks that the image uses, in no order. */
  chunks(): Iterable<ExpectedChunk>
}

export interface BlobFacts {
  readonly storedBytes: number
  readonly chunks: number
  /** Chunks that neither bootstrap nor blob has a digest of: no file of this image uses them. */
  readonly unknownChunks: number
}

/** @throws RAFS_FIELD, BLOB_TOC_INVALID, BLOB_META_INVALID, CHUNK_*, with the part, and what the backend throws */
export async function checkBlob(expected: ExpectedBlob, reader: BlobReader): Promise<BlobFacts> {
  try {
    return await new BlobCheck(expected, reader).run()
  } catch (err) {
    const failure = asFault(err)
    failure.context['blobId'] ??= expected.entry.blobId
    throw failure
  }
}

/** A unit of stored bytes and the chunks in it. */
interface CheckedUnit {
  readonly unit: StoredUnit
  readonly members: readonly CheckedMember[]
}

interface CheckedMember {
  readonly chunk: number
  readonly offset: number
  readonly size: number
  readonly digest: Uint8Array | undefined
  readonly crc32: number | undefined
}

class BlobCheck {
  readonly #expected: ExpectedBlob
  readonly #entry: BlobEntry
  readonly #reader: BlobReader
  #unknownChunks = 0
  #chunks = 0

  constructor(expected: ExpectedBlob, reader: BlobReader) {
    this.#expected = expected
    this.#entry = expected.entry
    this.#reader = reader
  }

  async run(): Promise<BlobFacts> {
    const storedBytes = await this.#reader.size({ kind: 'demand' })
    this.#checkSize(storedBytes)
    if (this.#entry.ciUncompressedSize === 0) {
      await this.#checkData(unitsOfRecords(this.#expected), storedBytes, undefined)
    } else {
      const sections = await this.#sections(storedBytes)
      const meta = await this.#meta()
      const { ciOffset } = this.#entry
      const dataEnd = hasFeature(this.#entry, 'hasTarHeader') ? ciOffset - F.TAR_HEADER_SIZE : ciOffset
      await this.#checkData(this.#unitsOfMeta(meta, sections), dataEnd, sections)
    }
    return { storedBytes, chunks: this.#chunks, unknownChunks: this.#unknownChunks }
  }

  #checkSize(storedBytes: number): void {
    const { compressedSize, ciOffset, ciCompressedSize, ciUncompressedSize } = this.#entry
    const metaEnd = ciUncompressedSize === 0 ? 0 : ciOffset + ciCompressedSize + F.CI_HEADER_SIZE
    const needed = Math.max(metaEnd, compressedSize)
    if (storedBytes < needed)
      throw partFault(
        'blob file',
        storedBytes,
        `the blob ends here, ${needed} bytes are expected`,
        'BLOB_META_INVALID',
      )
  }

  async #sections(storedBytes: number): Promise<BlobSections> {
    const { ciOffset } = this.#entry
    const start = hasFeature(this.#entry, 'hasTarHeader') ? ciOffset - F.TAR_HEADER_SIZE : ciOffset
    const tail = await this.#reader.read(start, storedBytes - start, { kind: 'demand' })
    return checkSections(this.#entry, tail, start)
  }

  async #meta(): Promise<BlobMeta> {
    const { offset, length } = storedMetaRange(this.#entry)
    const stored = await this.#reader.read(offset, length, { kind: 'demand' })
    return part('blob meta', () => parseStoredMeta(this.#entry, stored))
  }

  /** Every unit of the blob in the order of its chunks, with what the bootstrap or the blob itself knows of them. */
  *#unitsOfMeta(meta: BlobMeta, { digests }: BlobSections): Generator<CheckedUnit> {
    const { chunks } = meta
    const used = new Map<number, ExpectedChunk>()
    for (const chunk of this.#expected.chunks()) {
      this.#checkRecord(chunk, meta, digests)
      used.set(chunk.index, chunk)
    }
    for (let first = 0; first < chunks.count;) {
      const unit = storedUnit(this.#entry, meta, first)
      const members: CheckedMember[] = []
      for (let chunk = first; chunk < first + unit.chunkCount; chunk++) {
        const own = digests?.subarray(chunk * F.DIGEST_SIZE, (chunk + 1) * F.DIGEST_SIZE)
        const known = used.get(chunk)
        members.push({
          chunk,
          offset:
            unit.chunkCount === 1 && chunks.batchIndex(chunk) === undefined ? 0 : chunks.offsetInBatch(chunk),
          size: chunks.size(chunk),
          digest: known?.digest ?? own,
          crc32: known?.crc32 ?? chunks.crc32c(chunk),
        })
      }
      yield { unit, members }
      first += unit.chunkCount
    }
  }

  /** What the bootstrap says of a chunk must be what the blob says. */
  #checkRecord(chunk: ExpectedChunk, { chunks }: BlobMeta, digests: Uint8Array | undefined): void {
    const { index } = chunk
    const { ciOffset } = this.#entry
    const bad = (field: string, value: number, expected: number): Error =>
      partFault(
        'blob meta',
        ciOffset,
        `chunk ${index} has ${field} ${value}, the bootstrap says ${expected}`,
        'BLOB_META_INVALID',
      )
    if (index >= chunks.count) throw bad('count', chunks.count, index + 1)
    const pairs = [
      ['uncompressed_offset', chunks.offset(index), chunk.uncompressedOffset],
      ['uncompressed_size', chunks.size(index), chunk.uncompressedSize],
    ] as const
    for (const [field, value, expected] of pairs) if (value !== expected) throw bad(field, value, expected)
    if (chunks.batchIndex(index) === undefined && chunk.compressedSize !== 0) {
      const stored = [
        ['compressed_offset', chunks.compressedOffset(index), chunk.compressedOffset],
        ['compressed_size', chunks.compressedSize(index), chunk.compressedSize],
      ] as const
      for (const [field, value, expected] of stored) if (value !== expected) throw bad(field, value, expected)
    }
    const own = digests?.subarray(index * F.DIGEST_SIZE, (index + 1) * F.DIGEST_SIZE)
    if (own !== undefined && chunk.digest !== undefined && Buffer.compare(own, chunk.digest) !== 0)
      throw partFault(
        'blob digest',
        index * F.DIGEST_SIZE,
        `chunk ${index} has digest ${hex(own)} in the section, ${hex(chunk.digest)} in the bootstrap`,
        'BLOB_META_INVALID',
      )
  }

  /** Reads the chunk data once, from its start to its end. */
  async #checkData(
    units: Iterable<CheckedUnit>,
    dataEnd: number,
    sections: BlobSections | undefined,
  ): Promise<void> {
    const window = new StoredWindow(this.#reader, dataEnd)
    const stream = sections?.dataDigest === undefined ? undefined : new StreamHash(window, dataEnd)
    for (const { unit, members } of units) {
      const stored = await window.read(unit.storedOffset, unit.storedLength)
      await stream?.update(unit.storedOffset, stored)
      this.#checkUnit(unit, members, stored)
    }
    if (stream === undefined || sections?.dataDigest === undefined) return
    const found = await stream.digest(sections.dataTrailer)
    if (Buffer.compare(found, sections.dataDigest) !== 0)
      throw partFault(
        'chunk data',
        0,
        `it has sha256 ${hex(found)}, the table of contents says ${hex(sections.dataDigest)}`,
        'BLOB_TOC_INVALID',
      )
  }

  #checkUnit(unit: StoredUnit, members: readonly CheckedMember[], stored: Uint8Array): void {
    const { blobId, digester } = this.#entry
    const bytes = part('chunk data', () => decodeUnit(unit, stored), unit)
    for (const { chunk, offset, size, digest, crc32 } of members) {
      this.#chunks++
      if (digest === undefined && crc32 === undefined) {
        this.#unknownChunks++
        continue
      }
      const own = bytes.subarray(offset, offset + size)
      part('chunk data', () => checkChunk({ blobId, chunk, digester, digest, crc32 }, own), unit)
      if (digest !== undefined && crc32 !== undefined)
        part('chunk data', () => checkChunk({ blobId, chunk, digester, digest: undefined, crc32 }, own), unit)
    }
  }
}

/** A blob of which only the bootstrap knows where its chunks are: the chunks that it uses, as they are stored. */
function* unitsOfRecords(expected: ExpectedBlob): Generator<CheckedUnit> {
  const { entry } = expected
  const sorted = [...expected.chunks()].sort((a, b) => a.compressedOffset - b.compressedOffset)
  for (const { index, compressedOffset, compressedSize, uncompressedSize, digest, crc32 } of sorted) {
    const unit = {
      storedOffset: compressedOffset,
      storedLength: compressedSize,
      firstChunk: index,
      chunkCount: 1,
      compressor: compressedSize === uncompressedSize ? 'none' : entry.compressor,
      cipher: entry.cipher,
      uncompressedSize,
    } as const
    yield { unit, members: [{ chunk: index, offset: 0, size: uncompressedSize, digest, crc32 }] }
  }
}

/** Hashes the stored bytes from the first on, whichever units they are read for, and those between units too. */
class StreamHash {
  readonly #window: StoredWindow
  readonly #end: number
  readonly #hash: Hash = createHash('sha256')
  #position = 0

  constructor(window: StoredWindow, end: number) {
    this.#window = window
    this.#end = end
  }

  async update(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#fill(offset)
    const known = this.#position - offset
    if (known >= bytes.length) return
    this.#hash.update(bytes.subarray(known))
    this.#position = offset + bytes.length
  }

  async digest(trailer: Uint8Array): Promise<Uint8Array> {
    await this.#fill(this.#end)
    return this.#hash.update(trailer).digest()
  }

  async #fill(end: number): Promise<void> {
    while (this.#position < end) {
      const length = Math.min(end - this.#position, FILL_BYTES)
      this.#hash.update(await this.#window.read(this.#position, length))
      this.#position += length
    }
  }
}

const FILL_BYTES = 1024 * 1024

function part<T>(name: BlobPart, body: () => T, unit?: StoredUnit): T {
  try {
    return body()
  } catch (err) {
    const failure = named(name, err)
    if (unit !== undefined) failure.context['offset'] ??= unit.storedOffset
    throw failure
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
