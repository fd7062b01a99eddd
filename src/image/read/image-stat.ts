/** Counts of an image's files and chunks, and of what it shares with others (upstream's `stat`). */
import { BLOCK_SIZE, alignUp } from '../../erofs/format.js'
import type { ImageChunk, ImageInode, RafsImage } from '../../erofs/image-tree.js'
import { walkTree } from './walk-tree.js'

/** Chunks of a kind: how many, their stored and their uncompressed bytes. */
export interface ChunkSum {
  chunks: number
  compSize: number
  uncompSize: number
}

export interface ImageStat extends ChunkSum {
  dirs: number
  files: number
  symlinks: number
  fileSize: number
  /** Zeros between chunks in the uncompressed address space. */
  paddingSize: number
  /** Chunks by size: up to 2^12, 2^13, … 2^20 bytes and more. */
  readonly chunkSizes: number[]
  /** Files by size: up to 2^0, 2^1, … 2^44 bytes. */
  readonly fileSizes: number[]
  /** Different chunks. */
  readonly dedup: ChunkSum
  /** Different chunks that the images before do not have. */
  readonly own: ChunkSum
  /** Different chunks that the images before have too. */
  readonly ref: ChunkSum
}

const CHUNK_BUCKETS = { first: 12, count: 9 } as const
const FILE_BUCKETS = { first: 0, count: 45 } as const

export function newStat(): ImageStat {
  return {
    ...newSum(),
    dirs: 0,
    files: 0,
    symlinks: 0,
    fileSize: 0,
    paddingSize: 0,
    chunkSizes: new Array<number>(CHUNK_BUCKETS.count).fill(0),
    fileSizes: new Array<number>(FILE_BUCKETS.count).fill(0),
    dedup: newSum(),
    own: newSum(),
    ref: newSum(),
  }
}

/**
 * Adds an image to a count.
 * @param known - digests of the chunks of the images before
 * @param seen - digests of the chunks that this count has already; those of the image are added
 */
export function addImage(
  stat: ImageStat,
  image: RafsImage,
  known: ReadonlySet<string>,
  seen: Set<string>,
): void {
  const counted = new Set<ImageInode>()
  for (const { inode } of walkTree(image.root)) {
    if (inode.type === 'directory') stat.dirs++
    if (inode.type === 'symlink') stat.symlinks++
    if (inode.type !== 'regular' || counted.has(inode)) continue
    counted.add(inode)
    stat.files++
    stat.fileSize += inode.sizeBytes
    count(stat.fileSizes, FILE_BUCKETS.first, inode.sizeBytes)
    for (const chunk of inode.chunks) addChunk(stat, chunk, known, seen)
  }
}

function addChunk(stat: ImageStat, chunk: ImageChunk, known: ReadonlySet<string>, seen: Set<string>): void {
  const { digest, uncompressedSize } = chunk
  add(stat, chunk)
  stat.paddingSize += alignUp(uncompressedSize, BLOCK_SIZE) - uncompressedSize
  count(stat.chunkSizes, CHUNK_BUCKETS.first, uncompressedSize)
  if (seen.has(digest)) return
  seen.add(digest)
  add(stat.dedup, chunk)
  add(known.has(digest) ? stat.ref : stat.own, chunk)
}

function newSum(): ChunkSum {
  return { chunks: 0, compSize: 0, uncompSize: 0 }
}

function add(sum: ChunkSum, { compressedSize, uncompressedSize }: ImageChunk): void {
  sum.chunks++
  sum.compSize += compressedSize
  sum.uncompSize += uncompressedSize
}

function count(buckets: number[], first: number, size: number): void {
  const bucket = Math.ceil(Math.log2(Math.max(size, 1))) - first
  const at = Math.min(Math.max(bucket, 0), buckets.length - 1)
  buckets[at] = (buckets[at] ?? 0) + 1
}

/** Under upstream's names. */
export function statDocument(stat: ImageStat): Record<string, unknown> {
  const { dirs, files, symlinks, chunks, fileSize, compSize, uncompSize, paddingSize } = stat
  return {
    dirs,
    files,
    symlinks,
    chunks,
    file_size: fileSize,
    comp_size: compSize,
    uncomp_size: uncompSize,
    padding_size: paddingSize,
    chunk_sizes: stat.chunkSizes,
    file_sizes: stat.fileSizes,
    ...sumDocument('dedup', stat.dedup),
    ...sumDocument('own', stat.own),
    ...sumDocument('ref', stat.ref),
  }
}

function sumDocument(prefix: string, { chunks, compSize, uncompSize }: ChunkSum): Record<string, number> {
  return {
    [`${prefix}_chunks`]: chunks,
    [`${prefix}_comp_size`]: compSize,
    [`${prefix}_uncomp_size`]: uncompSize,
  }
}
