import { randomBytes } from 'node:crypto'
import { BLOB_FEATURES, BLOCK_SIZE, alignUp } from '../../erofs/format.js'
import type {
  DirectoryInode,
  ImageBlob,
  ImageChunk,
  ImageInode,
  RafsImage,
  RegularInode,
} from '../../erofs/image-tree.js'
import { hasFeature } from '../../erofs/blob-table.js'
import type { ChunkReader } from '../read/chunk-reader.js'
import type { BlobOutput } from './blob-output.js'
import { BlobSections } from './blob-sections.js'
import { BlobStream } from './blob-stream.js'
import type { ChunkDict } from './chunk-dict.js'
import { ChunkWriter } from './chunk-writer.js'
import type { CompressPool } from './compress-pool.js'
import { newBlob } from './image-builder.js'

export interface CompactOptions {
  /** A blob of which less than this percentage is used is written anew; 0: none is for that reason. */
  readonly minUsedRatio: number
  /** Neighbouring blobs of which less than so many bytes are used become one, */
  readonly compactBlobSize: number
  /** of so many bytes at most. */
  readonly maxCompactSize: number
  /** An image of fewer blobs is left as it is; 0: none is. */
  readonly layersToCompact: number
  /** Its blobs are left alone, and its chunks are not stored again. */
  readonly dictionary?: ChunkDict | undefined
}

/** Small chunks of blobs with batches are batched again up to this size. */
const BATCH_SIZE = 0x40000

/**
 * Writes blobs of an image anew without the chunks that no file refers to any more, and small ones together. Blobs that
 * are not worth it stay what they are. The result is the same tree over other blobs.
 * @param openOutput - called for each new blob
 * @throws what the reader and the outputs throw
 */
export async function compactImage(
  image: RafsImage,
  reader: ChunkReader,
  openOutput: () => Promise<BlobOutput>,
  options: CompactOptions,
  pool: CompressPool,
): Promise<{ image: Omit<RafsImage, 'blobs'>; rewritten: ImageBlob[] }> {
  const used = chunksInUse(image.root)
  const moved = new Map<ImageChunk, ImageChunk>()
  const rewritten: ImageBlob[] = []
  for (const group of planGroups(image.blobs, used, options)) {
    const chunks = group.flatMap(blob => [...(used.get(blob) ?? [])].sort((a, b) => a.index - b.index))
    await rewrite(image, chunks, reader, await openOutput(), options, pool, moved)
    rewritten.push(...group)
  }
  return { image: moved.size === 0 ? image : withChunks(image, moved), rewritten }
}

function chunksInUse(root: DirectoryInode): Map<ImageBlob, Set<ImageChunk>> {
  const used = new Map<ImageBlob, Set<ImageChunk>>()
  const open = [root]
  for (let directory = open.pop(); directory !== undefined; directory = open.pop()) {
    for (const child of directory.children.values()) {
      if (child.type === 'directory') open.push(child)
      if (child.type !== 'regular') continue
      for (const chunk of child.chunks) {
        const own = used.get(chunk.blob)
        if (own === undefined) used.set(chunk.blob, new Set([chunk]))
        else own.add(chunk)
      }
    }
  }
  return used
}

/** Which blobs are written anew, those of a group as one. Sizes are those of uncompressed blobs. */
function planGroups(
  blobs: readonly ImageBlob[],
  used: ReadonlyMap<ImageBlob, ReadonlySet<ImageChunk>>,
  options: CompactOptions,
): ImageBlob[][] {
  const dictionary = new Set(options.dictionary?.blobs.map(({ id }) => id))
  const own = blobs.filter(blob => used.has(blob) && !dictionary.has(blob.id))
  if (own.length < options.layersToCompact) return []
  const groups: { blobs: ImageBlob[]; sizeBytes: number; sparse: boolean }[] = []
  let last: (typeof groups)[number] | undefined
  for (const blob of own) {
    const sizeBytes = usedBytes(blob, used.get(blob) ?? new Set())
    const sparse = sizeBytes * 100 < options.minUsedRatio * blob.uncompressedSize
    const small = sizeBytes < options.compactBlobSize
    const fits = last !== undefined && last.sizeBytes + sizeBytes <= options.maxCompactSize
    if (small && fits && last !== undefined && canJoin(last.blobs[0] ?? blob, blob)) {
      last.blobs.push(blob)
      last.sizeBytes += sizeBytes
      last.sparse ||= sparse
    } else {
      const group = { blobs: [blob], sizeBytes, sparse }
      groups.push(group)
      last = small ? group : undefined
    }
  }
  return groups.filter(group => group.sparse || group.blobs.length > 1).map(group => group.blobs)
}

function usedBytes(blob: ImageBlob, chunks: ReadonlySet<ImageChunk>): number {
  const unit = hasFeature(blob, 'aligned') ? BLOCK_SIZE : 1
  let sizeBytes = 0
  for (const { uncompressedSize } of chunks) sizeBytes += alignUp(uncompressedSize, unit)
  return sizeBytes
}

/** One blob has one way of coding its chunks. */
function canJoin(a: ImageBlob, b: ImageBlob): boolean {
  const same = BLOB_FEATURES.hasToc | BLOB_FEATURES.batch | BLOB_FEATURES.encrypted | BLOB_FEATURES.aligned
  return (
    a.compressor === b.compressor && a.digester === b.digester && (a.features & same) === (b.features & same)
  )
}

/** Writes one blob of the chunks; `moved` learns where each of them is now. */
async function rewrite(
  { version, chunkSize }: RafsImage,
  chunks: readonly ImageChunk[],
  reader: ChunkReader,
  output: BlobOutput,
  { dictionary }: CompactOptions,
  pool: CompressPool,
  moved: Map<ImageChunk, ImageChunk>,
): Promise<void> {
  const like = chunks[0]?.blob
  if (like === undefined) return
  const toc = hasFeature(like, 'hasToc')
  const batchSize = hasFeature(like, 'batch') ? Math.min(BATCH_SIZE, chunkSize) : 0
  const aligned = version === 6 || hasFeature(like, 'aligned')
  const { compressor, digester } = like
  const cipher = like.cipher && { key: randomBytes(32), iv: randomBytes(16) }
  const blob = newBlob({
    version,
    chunkSize,
    compressor,
    digester,
    batchSize,
    toc,
    alignedChunks: aligned,
    inlineBootstrap: false,
    ...(cipher && { cipher }),
  })
  try {
    const stream = new BlobStream(output, 0)
    const writer = new ChunkWriter(
      stream,
      blob,
      { aligned, batchSize, ...(dictionary && { known: dictionary }) },
      pool,
    )
    for (const chunk of chunks) {
      const bytes = await reader.read(chunk)
      // The reader's bytes are good until the next read; the writer copies them.
      const [stored] = await writer.addFile(once(bytes), bytes.length)
      if (stored !== undefined) moved.set(chunk, stored)
    }
    await writer.flush()
    if (writer.chunks.length === 0) return
    const sections = new BlobSections(stream, blob, { headers: toc, toc })
    await sections.endData(0)
    if (version === 6) await sections.appendMeta(writer)
    if (toc) {
      await sections.appendDigests(writer, false)
      await sections.appendToc()
    }
    blob.id = stream.hash.digest('hex')
    blob.compressedSize = stream.sizeBytes
    await output.finish(blob.id)
  } finally {
    await output.abort()
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Buffer, void, undefined> {
  yield await Promise.resolve(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
}

/** The tree with other chunks; files that names share stay shared. */
function withChunks(image: RafsImage, moved: ReadonlyMap<ImageChunk, ImageChunk>): RafsImage {
  const files = new Map<ImageInode, RegularInode>()
  const move = (file: RegularInode): RegularInode => {
    const known = files.get(file)
    if (known !== undefined) return known
    const copy = { ...file, chunks: file.chunks.map(chunk => moved.get(chunk) ?? chunk) }
    files.set(file, copy)
    return copy
  }
  const open = [image.root]
  for (let directory = open.pop(); directory !== undefined; directory = open.pop()) {
    for (const [name, child] of directory.children) {
      if (child.type === 'directory') open.push(child)
      else if (child.type === 'regular') directory.children.set(name, move(child))
    }
  }
  return { ...image, prefetch: image.prefetch.map(inode => files.get(inode) ?? inode) }
}
