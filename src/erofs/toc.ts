/**
 * Sections of a data blob (RAFS data blob, tar framing and table of contents). Each section is followed by a tar header
 * that describes it, unpadded, so that a blob is walked from its end; blobs with a table of contents list the sections
 * with their digests as well.
 */
import { createHash } from 'node:crypto'
import type { ByteSource } from '../common/byte-source.js'
import { decompress, type Compressor } from '../common/codec.js'
import { fault } from '../common/fault.js'
import * as F from './format.js'
import { fits, readBytes, StructView } from './struct-view.js'

/** A section as its tar header describes it. */
export interface Section {
  readonly name: string
  /** Where its data starts in the blob; the header follows the data. */
  readonly offset: number
  readonly size: number
}

export interface TocEntry {
  readonly name: string
  readonly compressor: Compressor
  /** sha256 of the uncompressed content; for `image.blob` of the data and its tar header. */
  readonly digest: Uint8Array
  /** Unreliable for `image.blob`: some builders write the end of the data. */
  readonly compressedOffset: number
  readonly compressedSize: number
  readonly uncompressedSize: number
}

const CODE = 'BLOB_TOC_INVALID'
const TAR_OFF = { size: 124, checksum: 148, type: 156, magic: 257 } as const
const MAX_TOC_SIZE = 0x10000

/**
 * The sections from the first to the last. Empty for a blob without tar headers, of which only the bootstrap knows where
 * things are.
 * @throws BLOB_TOC_INVALID when headers start but do not lead to the start of the blob
 */
export function readSections(source: ByteSource): Section[] {
  const sections: Section[] = []
  let end = source.sizeBytes
  while (end >= F.TAR_HEADER_SIZE) {
    const section = parseTrailer(source, end)
    if (section === undefined) break
    sections.push(section)
    end = section.offset
  }
  if (sections.length > 0 && end !== 0) {
    throw fault(
      CODE,
      `the blob's tar headers lead to byte ${end}, not to its start: the blob is cut or damaged`,
      {
        context: { field: 'tar header', offset: end, value: sections.length },
      },
    )
  }
  return sections.reverse()
}

/** The section whose header ends at `end`; undefined when no GNU tar header stands there. */
function parseTrailer(source: ByteSource, end: number): Section | undefined {
  const at = end - F.TAR_HEADER_SIZE
  const view = new StructView(readBytes(source, at, F.TAR_HEADER_SIZE, 'tar header'), at, 'tar header', CODE)
  const magic = Buffer.from(view.bytes.subarray(TAR_OFF.magic, TAR_OFF.magic + 8)).toString('latin1')
  if (magic !== 'ustar  \0' || view.u8(TAR_OFF.type) !== 0x30) return undefined
  const stated = parseInt(view.text(TAR_OFF.checksum, 8), 8)
  const sum = headerSum(view.bytes)
  view.check(stated === sum, TAR_OFF.checksum, 'checksum', stated, `${sum} is expected`)
  const size = parseSize(view)
  view.check(size <= at, TAR_OFF.size, 'size', size, `only ${at} bytes stand before the header`)
  return { name: view.text(0, 100), offset: at - size, size }
}

/** Sum of the header's bytes with the checksum field taken as spaces. */
function headerSum(header: Uint8Array): number {
  let sum = 0
  for (const [index, byte] of header.entries())
    sum += index >= TAR_OFF.checksum && index < TAR_OFF.checksum + 8 ? 0x20 : byte
  return sum
}

/** 11 octal digits, or a big-endian number behind a byte 0x80. */
function parseSize(view: StructView): number {
  if (view.u8(TAR_OFF.size) === 0x80) {
    let size = 0
    for (let index = 1; index < 12; index++) size = size * 256 + view.u8(TAR_OFF.size + index)
    return size
  }
  const text = view.text(TAR_OFF.size, 12).trim()
  view.check(/^[0-7]+$/.test(text), TAR_OFF.size, 'size', text, 'octal digits are expected')
  return parseInt(text, 8)
}

/**
 * The table of contents with its section's place; undefined for a blob without one.
 * @throws BLOB_TOC_INVALID
 */
export function readToc(source: ByteSource): TocEntry[] | undefined {
  const section = source.sizeBytes < F.TAR_HEADER_SIZE ? undefined : parseTrailer(source, source.sizeBytes)
  if (section?.name !== F.SECTIONS.toc) return undefined
  if (section.size > MAX_TOC_SIZE || section.size % F.TOC_ENTRY_SIZE !== 0) {
    throw fault(CODE, `a table of contents of ${section.size} bytes is no list of entries of 128 bytes`, {
      context: { field: 'size', offset: section.offset, value: section.size },
    })
  }
  return parseToc(readBytes(source, section.offset, section.size, 'table of contents'), section.offset)
}

const COMPRESSOR_BY_FLAG: Readonly<Record<number, Compressor>> = {
  [F.TOC_FLAGS.none]: 'none',
  [F.TOC_FLAGS.zstd]: 'zstd',
  [F.TOC_FLAGS.lz4_block]: 'lz4_block',
}

/** @param at - offset of the first entry in the blob, for complaints. @throws BLOB_TOC_INVALID */
export function parseToc(bytes: Uint8Array, at: number): TocEntry[] {
  const entries: TocEntry[] = []
  for (let base = 0; base + F.TOC_ENTRY_SIZE <= bytes.length; base += F.TOC_ENTRY_SIZE) {
    const view = new StructView(
      bytes.subarray(base, base + F.TOC_ENTRY_SIZE),
      at + base,
      'table of contents',
      CODE,
    )
    const flags = view.u32(F.TOC_OFF.flags)
    const compressor = COMPRESSOR_BY_FLAG[flags & 0xf]
    if (compressor === undefined)
      throw view.bad(F.TOC_OFF.flags, 'flags', flags, 'one of 1, 2 and 4 is expected')
    entries.push({
      name: view.text(F.TOC_OFF.name, F.TOC_NAME_SIZE),
      compressor,
      digest: view.slice(F.TOC_OFF.digest, F.DIGEST_SIZE),
      compressedOffset: view.u64(F.TOC_OFF.compressedOffset, 'compressed_offset'),
      compressedSize: view.u64(F.TOC_OFF.compressedSize, 'compressed_size'),
      uncompressedSize: view.u64(F.TOC_OFF.uncompressedSize, 'uncompressed_size'),
    })
  }
  return entries
}

/**
 * The bootstrap inside a blob, uncompressed and checked against the table of contents where there is one. Its blob entry
 * may carry PLACEHOLDER_BLOB_ID. Undefined when the blob has none.
 * @throws BLOB_TOC_INVALID, CHUNK_DECODE
 */
export function extractBootstrap(source: ByteSource): Uint8Array | undefined {
  const toc = readToc(source)
  if (toc === undefined) {
    const last = source.sizeBytes < F.TAR_HEADER_SIZE ? undefined : parseTrailer(source, source.sizeBytes)
    return last?.name === F.SECTIONS.bootstrap ? source.read(last.offset, last.size) : undefined
  }
  const entry = toc.find(({ name }) => name === F.SECTIONS.bootstrap)
  return entry === undefined ? undefined : readSection(source, entry)
}

/**
 * The content of a section, uncompressed and checked. Not for `image.blob`, which is chunk data.
 * @throws BLOB_TOC_INVALID, CHUNK_DECODE
 */
export function readSection(source: ByteSource, entry: TocEntry): Uint8Array {
  const { name, compressedOffset, compressedSize, uncompressedSize } = entry
  const bad = (why: string, value: number): Error =>
    fault(CODE, `section ${name} at byte ${compressedOffset} of the blob ${why}`, {
      context: { field: name, offset: compressedOffset, value },
    })
  if (!fits(source, compressedOffset, compressedSize))
    throw bad(`ends beyond the ${source.sizeBytes} bytes of the blob`, compressedSize)
  if (uncompressedSize > F.MAX_BOOTSTRAP_SIZE) throw bad(`claims ${uncompressedSize} bytes`, uncompressedSize)
  const stored = source.read(compressedOffset, compressedSize)
  const bytes = decompress(entry.compressor, stored, uncompressedSize)
  const digest = createHash('sha256').update(bytes).digest()
  if (Buffer.compare(digest, entry.digest) !== 0)
    throw bad('does not have the digest that is listed', bytes.length)
  return bytes
}
