/** The check of what stands behind the chunk data of a blob: tar framing, table of contents, digests (rafs.md 2). */
import { createHash } from 'node:crypto'
import type { ByteSource } from '../../common/byte-source.js'
import { fault } from '../../common/fault.js'
import { type BlobEntry, hasFeature } from '../../erofs/blob-table.js'
import * as F from '../../erofs/format.js'
import { readSection, readSections, readToc, type Section, type TocEntry } from '../../erofs/toc.js'
import { inPart, partFault } from './parts.js'

export interface BlobSections {
  /** Digests of the chunks in their order; undefined for a blob without them. */
  readonly digests: Uint8Array | undefined
  /** sha256 of the chunk data and its tar header by the table of contents; undefined where there is none. */
  readonly dataDigest: Uint8Array | undefined
  /** That tar header. */
  readonly dataTrailer: Uint8Array
}

/**
 * @param tail - the blob from the tar header of its chunk data on, or from its metadata on where it has none
 * @param start - where that is in the blob
 * @throws BLOB_TOC_INVALID with the part
 */
export function checkSections(blob: BlobEntry, tail: Uint8Array, start: number): BlobSections {
  const source = new TailSource(tail, start)
  const hasHeaders = hasFeature(blob, 'hasTarHeader')
  const sections = hasHeaders ? inPart('tar header', () => readSections(source)) : []
  if (hasHeaders) checkPlaces(blob, sections)
  const toc = hasFeature(blob, 'hasToc') ? inPart('TOC', () => readToc(source)) : undefined
  if (hasFeature(blob, 'hasToc')) checkToc(blob, source, sections, toc)
  const digests = sections.find(({ name }) => name === F.SECTIONS.digest)
  return {
    digests: digests && tail.subarray(digests.offset - start, digests.offset - start + digests.size),
    dataDigest: toc?.find(({ name }) => name === F.SECTIONS.blob)?.digest,
    dataTrailer: hasHeaders ? tail.subarray(0, F.TAR_HEADER_SIZE) : new Uint8Array(0),
  }
}

function checkPlaces(blob: BlobEntry, sections: readonly Section[]): void {
  const { ciOffset, ciCompressedSize, chunkCount } = blob
  const expected = [
    [F.SECTIONS.blob, 0, ciOffset - F.TAR_HEADER_SIZE],
    [F.SECTIONS.meta, ciOffset, ciCompressedSize + F.CI_HEADER_SIZE],
  ] as const
  for (const [name, offset, size] of expected) {
    const section = sections.find(section => section.name === name)
    if (section?.offset !== offset || section.size !== size)
      throw badSection(name, section, `${size} bytes at ${offset} are expected`)
  }
  const digests = sections.find(({ name }) => name === F.SECTIONS.digest)
  const wanted = chunkCount * F.DIGEST_SIZE
  if (digests === undefined ? hasFeature(blob, 'inlinedChunkDigest') : digests.size !== wanted)
    throw badSection(F.SECTIONS.digest, digests, `${wanted} bytes are expected for ${chunkCount} chunks`)
}

function checkToc(
  blob: BlobEntry,
  source: ByteSource,
  sections: readonly Section[],
  toc: readonly TocEntry[] | undefined,
): void {
  const section = sections.find(({ name }) => name === F.SECTIONS.toc)
  if (toc === undefined || section === undefined)
    throw partFault('TOC', source.sizeBytes, 'the blob does not end with it', 'BLOB_TOC_INVALID')
  checkTocDigest(blob, source, section)
  for (const entry of toc) {
    const { name } = entry
    if (name === F.SECTIONS.blob) {
      checkEntry(blob, entry, {
        size: blob.ciOffset - F.TAR_HEADER_SIZE,
        uncompressed: blob.uncompressedSize,
      })
    } else if (name === F.SECTIONS.meta || name === F.SECTIONS.metaHeader) {
      checkMetaEntry(blob, source, entry)
    } else {
      const own = sections.find(section => section.name === name)
      if (own?.offset !== entry.compressedOffset || own.size !== entry.compressedSize)
        throw badEntry(entry, 'the tar header of the section says otherwise')
      inPart(name === F.SECTIONS.digest ? 'blob digest' : 'TOC', () => readSection(source, entry))
    }
  }
}

function checkTocDigest(blob: BlobEntry, source: ByteSource, section: Section): void {
  if (blob.tocSize === 0) return
  const length = section.size + F.TAR_HEADER_SIZE
  const digest = createHash('sha256').update(source.read(section.offset, length)).digest()
  if (length === blob.tocSize && Buffer.compare(digest, blob.tocDigest) === 0) return
  throw partFault(
    'TOC',
    section.offset,
    `it has ${length} bytes and sha256 ${digest.toString('hex')}, the bootstrap says ${blob.tocSize} and ` +
      Buffer.from(blob.tocDigest).toString('hex'),
    'BLOB_TOC_INVALID',
  )
}

/** The metadata of an encrypted blob is listed as it is before encryption; the check of the metadata itself covers it. */
function checkMetaEntry(blob: BlobEntry, source: ByteSource, entry: TocEntry): void {
  const { ciOffset, ciCompressedSize, ciUncompressedSize } = blob
  const isHeader = entry.name === F.SECTIONS.metaHeader
  checkEntry(blob, entry, {
    offset: isHeader ? ciOffset + ciCompressedSize : ciOffset,
    size: isHeader ? F.CI_HEADER_SIZE : ciCompressedSize,
    uncompressed: isHeader ? F.CI_HEADER_SIZE : ciUncompressedSize,
  })
  if (!hasFeature(blob, 'encrypted')) inPart('blob meta', () => readSection(source, entry))
}

function checkEntry(
  blob: BlobEntry,
  entry: TocEntry,
  expected: { offset?: number; size: number; uncompressed: number },
): void {
  const { offset = entry.compressedOffset, size, uncompressed } = expected
  const { compressedOffset, compressedSize, uncompressedSize } = entry
  if (compressedOffset === offset && compressedSize === size && uncompressedSize === uncompressed) return
  throw badEntry(entry, `${size} bytes at ${offset} for ${uncompressed} are what the bootstrap says`)
}

function badEntry(
  { name, compressedOffset, compressedSize, uncompressedSize }: TocEntry,
  why: string,
): Error {
  return partFault(
    'TOC',
    compressedOffset,
    `section ${name} has ${compressedSize} bytes at ${compressedOffset} for ${uncompressedSize}: ${why}`,
    'BLOB_TOC_INVALID',
  )
}

function badSection(name: string, section: Section | undefined, why: string): Error {
  const found = section === undefined ? 'is missing' : `has ${section.size} bytes at ${section.offset}`
  return partFault('tar header', section?.offset ?? 0, `section ${name} ${found}: ${why}`, 'BLOB_TOC_INVALID')
}

/** The end of a blob: what stands before it was not read. */
class TailSource implements ByteSource {
  readonly sizeBytes: number
  readonly #tail: Uint8Array
  readonly #start: number

  constructor(tail: Uint8Array, start: number) {
    this.sizeBytes = start + tail.length
    this.#tail = tail
    this.#start = start
  }

  read(offset: number, length: number): Uint8Array {
    const from = offset - this.#start
    if (from >= 0 && from + length <= this.#tail.length) return this.#tail.subarray(from, from + length)
    throw fault('BLOB_TOC_INVALID', `${length} bytes at ${offset} are no section behind the chunk data`, {
      context: { offset, length },
    })
  }
}
