/** The tree of an image of either kind, with what tells the contents of its files apart. */
import { createHash } from 'node:crypto'
import { asFault, fault } from '../../common/fault.js'
import type { DirectoryInode, RegularInode } from '../../erofs/image-tree.js'
import type { ImageSource } from '../../oci/image-store.js'
import type { Manifest } from '../../oci/manifest.js'
import { LayerTree } from '../build/layer-tree.js'
import { mergeLayers } from '../build/merge.js'
import type { NydusImage } from '../convert/nydus-image.js'
import { type BlobPlace, ChunkReader } from '../read/chunk-reader.js'
import { walkTree } from '../read/walk-tree.js'
import { decompressLayer } from '../tar/layer-stream.js'
import { DEFAULT_LIMITS } from '../tar/limits.js'
import { readTar } from '../tar/tar-reader.js'

export interface HashedTree {
  readonly root: DirectoryInode
  /** sha256 of each regular file's content, as a byte string. */
  readonly contents: ReadonlyMap<RegularInode, string>
}

/** The tree that the layers of a plain image give; each layer is read once. @throws TAR_*, faults of the store */
export async function plainTree(
  source: ImageSource,
  { layers }: Manifest,
  signal: AbortSignal,
): Promise<HashedTree> {
  /** By the list that stands for the file's chunks: it goes with the inode wherever that goes. */
  const hashes = new Map<RegularInode['chunks'], string>()
  const trees: DirectoryInode[] = []
  for (const [index, layer] of layers.entries()) {
    const tree = new LayerTree(DEFAULT_LIMITS)
    const stream = source.streamBlob(layer, { signal })
    try {
      for await (const entry of readTar(decompressLayer(stream, DEFAULT_LIMITS))) {
        const chunks: RegularInode['chunks'] = []
        if (entry.type === 'regular') {
          const hash = createHash('sha256')
          for await (const piece of entry.body) hash.update(piece)
          hashes.set(chunks, hash.digest('binary'))
        }
        tree.add(entry, chunks)
      }
    } catch (err) {
      const failure = asFault(err)
      const where = `layer ${index + 1} of ${source.name}`
      throw fault(failure.code, `${where}: ${failure.message}`, { cause: failure, context: failure.context })
    }
    trees.push(tree.root)
  }
  const root = mergeLayers(trees)
  const contents = new Map<RegularInode, string>()
  for (const { inode } of walkTree(root)) {
    if (inode.type === 'regular') contents.set(inode, hashes.get(inode.chunks) ?? '')
  }
  return { root, contents }
}

/**
 * The tree of a nydus image; each chunk is read, decoded and checked.
 * @param data - where the blobs are
 * @throws CHUNK_*, faults of the store
 */
export async function nydusTree(
  nydus: NydusImage,
  data: BlobPlace,
  signal: AbortSignal,
): Promise<HashedTree> {
  const { root, blobs } = nydus.image
  const reader = new ChunkReader(data)
  const order = new Map(blobs.map((blob, index) => [blob, index]))
  const files = new Set<RegularInode>()
  for (const { inode } of walkTree(root)) if (inode.type === 'regular') files.add(inode)
  const place = ({ chunks: [first] }: RegularInode): [number, number] =>
    first ? [order.get(first.blob) ?? 0, first.index] : [0, 0]
  // As they are stored, so that blobs are read from front to back; of a batch no bootstrap says where it lies.
  const stored = [...files].map(file => ({ file, at: place(file) }))
  stored.sort((a, b) => a.at[0] - b.at[0] || a.at[1] - b.at[1])
  const contents = new Map<RegularInode, string>()
  for (const { file } of stored) {
    signal.throwIfAborted()
    const hash = createHash('sha256')
    for (const chunk of file.chunks) hash.update(await reader.read(chunk))
    contents.set(file, hash.digest('binary'))
  }
  return { root, contents }
}
