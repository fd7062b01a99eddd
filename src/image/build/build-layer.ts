import { type FileHandle, open } from 'node:fs/promises'
import { type Compressor, compress } from '../../common/codec.js'
import type { Digester } from '../../common/digest.js'
import { createHash } from 'node:crypto'
import {
  type TocSection,
  encodeCacheMeta,
  encodeChunkInfos,
  encodeCiHeader,
  encodeDigests,
  encodeSectionHeader,
  encodeToc,
} from '../../erofs/blob-writer.js'
import { BLOB_FEATURES, PLACEHOLDER_BLOB_ID, SECTIONS } from '../../erofs/format.js'
import type { DirectoryInode, ImageBlob, ImageChunk } from '../../erofs/image-tree.js'
import { encodeBootstrap } from '../../erofs/writer.js'
import { ChunkWriter } from './chunk-writer.js'
import type { CompressPool } from './compress-pool.js'
import { type ByteStream, decompressLayer } from '../tar/layer-stream.js'
import { LayerTree } from './layer-tree.js'
import type { LayerLimits } from '../tar/limits.js'
import { readTar } from '../tar/tar-reader.js'

export interface LayerOptions {
  readonly chunkSize: number
  readonly compressor: Compressor
  readonly digester: Digester
  readonly limits: LayerLimits
}

/** A layer as it goes to a registry, and what the merged bootstrap needs of it. */
export interface BuiltLayer {
  /** The data blob's file. */
  readonly path: string
  /** sha256 of that file, 64 hex digits: also the blob's id. */
  readonly digestHex: string
  readonly sizeBytes: number
  /** The layer's own tree; whiteouts are ordinary files in it. */
  readonly root: DirectoryInode
  /** Undefined for a layer without file data. */
  readonly blob: ImageBlob | undefined
  /** What caches keep of the blob's metadata; undefined as above. */
  readonly cacheMeta: Buffer | undefined
  readonly droppedXattrs: number
}

/**
 * Turns an OCI layer (tar, tar+gzip or tar+zstd) into a RAFS v6 data blob in the file at `path`: chunks in the order
 * of the archive, chunk infos, digests, the layer's own bootstrap and a table of contents (rafs.md 2).
 */
export async function buildLayer(
  source: ByteStream,
  path: string,
  options: LayerOptions,
  pool: CompressPool,
): Promise<BuiltLayer> {
  const file = await open(path, 'wx', 0o600)
  try {
    return await writeLayer(source, path, file, options, pool)
  } finally {
    await file.close()
  }
}

async function writeLayer(
  source: ByteStream,
  path: string,
  file: FileHandle,
  options: LayerOptions,
  pool: CompressPool,
): Promise<BuiltLayer> {
  const blob = newBlob(options)
  const writer = new ChunkWriter(file, blob, pool)
  const tree = new LayerTree(options.limits)
  for await (const entry of readTar(decompressLayer(source, options.limits))) {
    const chunks = entry.type === 'regular' ? await writer.addFile(entry.body, entry.sizeBytes) : []
    tree.add(entry, chunks)
  }
  await writer.flush()
  const sections: TocSection[] = []
  const cacheMeta = writer.chunks.length > 0 ? await appendChunkSections(writer, blob, sections) : undefined
  await appendBootstrap(writer, blob, tree.root, options, sections)
  const toc = encodeToc(sections)
  await writer.append(toc)
  await writer.append(encodeSectionHeader(SECTIONS.toc, toc.length))
  const digestHex = writer.hash.digest('hex')
  // From now on the blob is seen from the merged bootstrap.
  blob.id = digestHex
  blob.features &= ~BLOB_FEATURES.inlinedFsMeta
  return {
    path,
    digestHex,
    sizeBytes: writer.position,
    root: tree.root,
    blob: cacheMeta && blob,
    cacheMeta,
    droppedXattrs: tree.droppedXattrs,
  }
}

function newBlob(options: LayerOptions): ImageBlob {
  const { aligned, inlinedFsMeta, inlinedChunkDigest, hasTarHeader, hasToc, capTarToc } = BLOB_FEATURES
  return {
    id: PLACEHOLDER_BLOB_ID,
    chunkSize: options.chunkSize,
    chunkCount: 0,
    compressor: options.compressor,
    digester: options.digester,
    features: aligned | inlinedFsMeta | inlinedChunkDigest | hasTarHeader | hasToc | capTarToc,
    compressedSize: 0,
    uncompressedSize: 0,
    ciCompressor: 'none',
    ciOffset: 0,
    ciCompressedSize: 0,
    ciUncompressedSize: 0,
  }
}

/** Sections that only a blob with chunks has. Returns the metadata in its cache form. */
async function appendChunkSections(
  writer: ChunkWriter,
  blob: ImageBlob,
  sections: TocSection[],
): Promise<Buffer> {
  const dataSize = writer.position
  await writer.append(encodeSectionHeader(SECTIONS.blob, dataSize))
  sections.push({
    name: SECTIONS.blob,
    compressor: 'none',
    // Readers of the table expect the digest of the data and its header.
    digest: writer.hash.copy().digest(),
    offset: 0,
    storedSize: dataSize,
    size: blob.uncompressedSize,
  })

  const infos = encodeChunkInfos(writer.chunks)
  const stored = smaller(blob.compressor, infos)
  blob.ciCompressor = stored.compressor
  blob.ciOffset = writer.position
  blob.ciCompressedSize = stored.bytes.length
  blob.ciUncompressedSize = infos.length
  sections.push(section(SECTIONS.meta, writer.position, infos, stored))
  await writer.append(stored.bytes)
  const header = encodeCiHeader(blob)
  sections.push(section(SECTIONS.metaHeader, writer.position, header))
  await writer.append(header)
  await writer.append(encodeSectionHeader(SECTIONS.meta, stored.bytes.length + header.length))

  await appendDigests(writer, writer.chunks, sections)
  return encodeCacheMeta(blob, infos)
}

async function appendDigests(
  writer: ChunkWriter,
  chunks: readonly ImageChunk[],
  sections: TocSection[],
): Promise<void> {
  const digests = encodeDigests(chunks)
  sections.push(section(SECTIONS.digest, writer.position, digests))
  await writer.append(digests)
  await writer.append(encodeSectionHeader(SECTIONS.digest, digests.length))
}

async function appendBootstrap(
  writer: ChunkWriter,
  blob: ImageBlob,
  root: DirectoryInode,
  options: LayerOptions,
  sections: TocSection[],
): Promise<void> {
  blob.compressedSize = writer.position
  const { bytes } = encodeBootstrap(root, options)
  const stored = smaller('zstd', bytes)
  sections.push(section(SECTIONS.bootstrap, writer.position, bytes, stored))
  await writer.append(stored.bytes)
  await writer.append(encodeSectionHeader(SECTIONS.bootstrap, stored.bytes.length))
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
