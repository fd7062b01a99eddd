/** The check of an image: everything that a mount of it could ever look at is read once. */
import type { ByteSource } from '../../common/byte-source.js'
import { asFault } from '../../common/fault.js'
import type { ImageBlob, ImageChunk, RafsImage, RegularInode } from '../../erofs/image-tree.js'
import { UNKNOWN_DIGEST } from '../../erofs/load-chunks.js'
import { detectFormat } from '../../erofs/superblock.js'
import { loadImageV5 } from '../../erofs/v5/reader.js'
import { blobEntryOf } from './blob-entry.js'
import { checkBootstrapV6 } from './check-bootstrap.js'
import type { ExpectedBlob, ExpectedChunk } from './check-blob.js'
import { type BootstrapPart, named } from './parts.js'
import { walkTree } from './walk-tree.js'

export interface CheckedImage {
  readonly version: 5 | 6
  readonly compressor: string
  /** In blob table order; `checkBlob` takes them. */
  readonly blobs: readonly ExpectedBlob[]
  /** Names of the tree with the root; each name of a hard link counts. */
  readonly names: number
  /** Bytes of all regular files, hard links once. */
  readonly fileBytes: number
  /** Chunks that the files refer to, hard links once. */
  readonly chunks: number
  /** What is odd but does no harm. */
  readonly warnings: readonly string[]
}

/**
 * Reads superblock, tables and the whole tree: inodes, attributes, link targets, chunk indexes and chunk records, and
 * what they say of one another. Of RAFS v5 the digest of every inode too.
 * @throws RAFS_* naming the first part and field that is wrong
 */
export function checkBootstrap(source: ByteSource): CheckedImage {
  if (detectFormat(source) === 'rafs-v5') return checkV5(source)
  const checked = checkBootstrapV6(source)
  const { superblock, names, fileBytes, chunks, warnings } = checked
  const blobs = checked.blobs.map(entry => ({ entry, chunks: () => checked.records.ofBlob(entry.index) }))
  return { version: 6, compressor: superblock.compressor, blobs, names, fileBytes, chunks, warnings }
}

function checkV5(source: ByteSource): CheckedImage {
  const image = loadV5(source)
  const files = new Set<RegularInode>()
  let [names, fileBytes, chunks] = [0, 0, 0]
  for (const { inode } of walkTree(image.root)) {
    names++
    if (inode.type !== 'regular' || files.has(inode)) continue
    files.add(inode)
    fileBytes += inode.sizeBytes
    chunks += inode.chunks.length
  }
  // Only who reads the blobs asks for their chunks.
  let used: ReadonlyMap<ImageBlob, ReadonlySet<ImageChunk>> | undefined
  const blobs = image.blobs.map(blob => ({
    entry: blobEntryOf(blob),
    chunks: () => expectedChunks((used ??= chunksByBlob(files)).get(blob) ?? []),
  }))
  return { version: 5, compressor: image.compressor, blobs, names, fileBytes, chunks, warnings: [] }
}

function chunksByBlob(files: Iterable<RegularInode>): Map<ImageBlob, Set<ImageChunk>> {
  const used = new Map<ImageBlob, Set<ImageChunk>>()
  for (const { chunks } of files) {
    for (const chunk of chunks) {
      const known = used.get(chunk.blob)
      if (known) known.add(chunk)
      else used.set(chunk.blob, new Set([chunk]))
    }
  }
  return used
}

function* expectedChunks(chunks: Iterable<ImageChunk>): Generator<ExpectedChunk, void, undefined> {
  for (const { digest, crc32, ...place } of chunks)
    yield { ...place, digest: digest === UNKNOWN_DIGEST ? undefined : Buffer.from(digest, 'hex'), crc32 }
}

const V5_PARTS: readonly [RegExp, BootstrapPart][] = [
  [/^RAFS v5 superblock/, 'superblock'],
  [/^RAFS v5 inode table/, 'inode table'],
  [/^RAFS v5 (extended )?blob table/, 'blob table'],
  [/^RAFS v5 prefetch table/, 'prefetch table'],
  [/^chunks\b/, 'chunk table'],
  [/^name /, 'dirent'],
  [/^extended attributes\b/, 'xattr'],
  [/^inode /, 'inode'],
]

/** The parser of v5 begins its sentences with the part. */
function loadV5(source: ByteSource): RafsImage {
  try {
    return loadImageV5(source, { verifyDigests: true })
  } catch (err) {
    const { message } = asFault(err)
    throw named(V5_PARTS.find(([start]) => start.test(message))?.[1] ?? 'bootstrap', err)
  }
}
