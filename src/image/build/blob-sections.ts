import { createHash } from 'node:crypto'
import { type Compressor, UnitCipher, compress } from '../../common/codec.js'
import { limitBufferGarbage } from '../../common/garbage.js'
import {
  type TocSection,
  encodeCacheMeta,
  encodeChunkInfos,
  encodeCiHeader,
  encodeDigests,
  encodeSectionHeader,
  encodeToc,
} from '../../erofs/blob-writer.js'
import { SECTIONS } from '../../erofs/format.js'
import type { ImageBlob } from '../../erofs/image-tree.js'
import type { BlobStream } from './blob-stream.js'
import type { ChunkWriter } from './chunk-writer.js'

/** What follows the chunk data of a blob (rafs.md 2.1). */
export interface SectionOptions {
  /** A header follows each section, so that the blob can be taken apart from its end. */
  readonly headers: boolean
  /** Chunk digests and a table of contents. */
  readonly toc: boolean
}

/** Appends the sections of a blob after its chunk data, in the order of their methods. */
export class BlobSections {
  readonly #stream: BlobStream
  readonly #blob: ImageBlob
  readonly #options: SectionOptions
  readonly #toc: TocSection[] = []

  constructor(stream: BlobStream, blob: ImageBlob, options: SectionOptions) {
    this.#stream = stream
    this.#blob = blob
    this.#options = options
  }

  /** Ends the chunk data, which starts at `start`. */
  async endData(start: number): Promise<void> {
    const sizeBytes = this.#stream.position - start
    await this.#appendHeader(SECTIONS.blob, sizeBytes)
    this.#toc.push({
      name: SECTIONS.blob,
      compressor: 'none',
      // Readers of the table expect the digest of the data and its header.
      digest: this.#stream.hash.copy().digest(),
      offset: start,
      storedSize: sizeBytes,
      size: this.#blob.uncompressedSize,
    })
  }

  /** The chunk infos and their header; fills in their place in the blob. Returns what caches keep of them. */
  async appendMeta(writer: ChunkWriter): Promise<Buffer> {
    const blob = this.#blob
    const cipher = blob.cipher && new UnitCipher(blob.cipher.key, blob.cipher.iv)
    const infos = encodeChunkInfos(blob, writer.chunks, writer.batches)
    const packed = smaller(blob.compressor, infos)
    const stored = { ...packed, bytes: cipher?.encrypt(packed.bytes) ?? packed.bytes }
    blob.ciCompressor = stored.compressor
    blob.ciOffset = this.#stream.position
    blob.ciCompressedSize = stored.bytes.length
    blob.ciUncompressedSize = infos.length
    await this.#appendSection(SECTIONS.meta, infos, stored)
    const header = encodeCiHeader(blob, writer.batches.length)
    await this.#appendSection(SECTIONS.metaHeader, header, {
      compressor: 'none',
      bytes: cipher?.encrypt(header) ?? header,
    })
    await this.#appendHeader(SECTIONS.meta, stored.bytes.length + header.length)
    return encodeCacheMeta(infos, header)
  }

  /** The chunks' digests; they do not count for the id of a blob whose bootstrap stands apart (rafs.md 2.7). */
  async appendDigests(writer: ChunkWriter, partOfId: boolean): Promise<void> {
    const digests = encodeDigests(writer.chunks)
    this.#toc.push(section(SECTIONS.digest, this.#stream.position, digests))
    await (partOfId ? this.#stream.append(digests) : this.#stream.appendApart(digests))
    await this.#appendHeader(SECTIONS.digest, digests.length)
  }

  /** Readers of a blob without a table of contents take it as it is. */
  async appendBootstrap(bytes: Uint8Array): Promise<void> {
    limitBufferGarbage()
    const stored = this.#options.toc ? smaller('zstd', bytes) : { compressor: 'none' as const, bytes }
    await this.#appendSection(SECTIONS.bootstrap, bytes, stored)
    await this.#appendHeader(SECTIONS.bootstrap, stored.bytes.length)
  }

  /** Fills in what the blob's entry says of the table. */
  async appendToc(): Promise<void> {
    const entries = encodeToc(this.#toc)
    const bytes = Buffer.concat([entries, encodeSectionHeader(SECTIONS.toc, entries.length)])
    await this.#stream.append(bytes)
    this.#blob.toc = { sizeBytes: bytes.length, digest: createHash('sha256').update(bytes).digest() }
  }

  async #appendSection(name: string, content: Uint8Array, stored: Stored): Promise<void> {
    this.#toc.push(section(name, this.#stream.position, content, stored))
    await this.#stream.append(stored.bytes)
  }

  async #appendHeader(name: string, sizeBytes: number): Promise<void> {
    if (this.#options.headers) await this.#stream.append(encodeSectionHeader(name, sizeBytes))
  }
}

interface Stored {
  readonly compressor: Compressor
  readonly bytes: Uint8Array
}

/** Compressed, unless that does not make it smaller. */
function smaller(compressor: Compressor, bytes: Uint8Array): Stored {
  const packed = compress(compressor, bytes)
  return packed.length < bytes.length ? { compressor, bytes: packed } : { compressor: 'none', bytes }
}

function section(
  name: string,
  offset: number,
  content: Uint8Array,
  stored: Stored = { compressor: 'none', bytes: content },
): TocSection {
  return {
    name,
    compressor: stored.compressor,
    digest: createHash('sha256').update(content).digest(),
    offset,
    storedSize: stored.bytes.length,
    size: content.length,
  }
}
