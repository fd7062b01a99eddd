import type { FileHandle } from 'node:fs/promises'
import type { ByteSource } from '../../common/byte-source.js'
import { fault } from '../../common/fault.js'
import { Bootstrap } from '../../erofs/bootstrap.js'
import { BLOCK_SIZE } from '../../erofs/format.js'
import type { ImageChunk } from '../../erofs/image-tree.js'
import { loadBlobs } from '../../erofs/load-image.js'
import { detectFormat } from '../../erofs/superblock.js'
import type { ChunkReader } from './chunk-reader.js'

const COPY_BYTES = 1 << 20

/**
 * Writes bootstrap and blobs as one disk that the kernel mounts by itself: each blob's uncompressed space stands where its
 * device slot says (rafs.md 1.3). What no file refers to stays a hole. Returns the size in bytes.
 * @throws RAFS_*, RAFS_UNSUPPORTED for images that were not laid out for one disk, and what reader and file throw
 */
export async function exportDisk(source: ByteSource, reader: ChunkReader, out: FileHandle): Promise<number> {
  if (detectFormat(source) === 'rafs-v5')
    throw fault('RAFS_UNSUPPORTED', 'a RAFS v5 image has no blocks to export: convert it to RAFS v6')
  const { devices } = Bootstrap.open(source)
  const { blobs, chunks } = loadBlobs(source)
  const starts = new Map(blobs.map((blob, index) => [blob, startOf(devices[index]?.mappedBlock, blob.id)]))
  let size = source.sizeBytes
  for (const { mappedBlock, blocks } of devices) size = Math.max(size, (mappedBlock + blocks) * BLOCK_SIZE)
  for (let at = 0; at < source.sizeBytes; at += COPY_BYTES)
    await writeAll(out, source.read(at, Math.min(COPY_BYTES, source.sizeBytes - at)), at)
  for (const chunk of inStoredOrder(chunks))
    await writeAll(out, await reader.read(chunk), (starts.get(chunk.blob) ?? 0) + chunk.uncompressedOffset)
  await out.truncate(size)
  return size
}

function startOf(mappedBlock: number | undefined, blobId: string): number {
  if (mappedBlock !== undefined && mappedBlock > 0) return mappedBlock * BLOCK_SIZE
  throw fault(
    'RAFS_UNSUPPORTED',
    `blob ${blobId} has no place on a disk: the image was built before version 2.2, or is larger than 16 TiB; build it anew`,
  )
}

function inStoredOrder(chunks: Iterable<ImageChunk>): ImageChunk[] {
  return [...chunks].sort((a, b) => (a.blob === b.blob ? a.index - b.index : a.blob.id < b.blob.id ? -1 : 1))
}

/** At a place of its own, whole. */
export async function writeAll(out: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await out.write(bytes, done, bytes.length - done, position + done)
    done += bytesWritten
  }
}
