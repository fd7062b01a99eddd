import { BlobPool } from '../../erofs/blob-pool.js'
import type { DirectoryInode } from '../../erofs/image-tree.js'
import { ChunkDict, type ImageKind, requireSameKind } from '../../image/build/chunk-dict.js'
import type { BuildOptions } from '../../image/build/image-builder.js'
import { mergeLayers } from '../../image/build/merge.js'
import type { CreateRequest } from './create-options.js'
import { openChunkDict } from './merge.js'
import { OpenBootstrap } from './open-image.js'

/**
 * What a new layer is built upon: the image that it is laid over, and images whose chunks are not stored again, its
 * parent's first.
 * @throws FILE_MISSING, RAFS_*, IMAGE_MISMATCH
 */
export function openBase(request: CreateRequest): Pick<BuildOptions, 'overlay' | 'knownChunks'> {
  const { version, chunkSize, digester, repeatable, parentBootstrap, chunkDict } = request
  const wanted: ImageKind = { version, chunkSize, digester, explicitOwners: !repeatable }
  const pool = new BlobPool()
  const dictionaries: ChunkDict[] = []
  let overlay: BuildOptions['overlay']
  if (parentBootstrap !== undefined) {
    const { root, dictionary } = openParent(parentBootstrap, pool)
    // Digests of v5 stand in the inodes; v6 has them in the blobs, which say their own digester.
    requireSameKind(parentBootstrap, dictionary.kind, wanted, version === 5 ? digester : undefined)
    overlay = layer => mergeLayers([root, layer], request.whiteoutSpec)
    dictionaries.push(dictionary)
  }
  if (chunkDict !== undefined) {
    const dictionary = openChunkDict(chunkDict, pool)
    requireSameKind(chunkDict, dictionary.kind, wanted, digester)
    dictionaries.push(dictionary)
  }
  const find: ChunkDict['find'] = (digest, sizeBytes) => {
    for (const dictionary of dictionaries) {
      const chunk = dictionary.find(digest, sizeBytes)
      if (chunk) return chunk
    }
    return undefined
  }
  return { ...(overlay && { overlay }), ...(dictionaries.length > 0 && { knownChunks: { find } }) }
}

function openParent(path: string, pool: BlobPool): { root: DirectoryInode; dictionary: ChunkDict } {
  const opened = OpenBootstrap.open(path)
  try {
    const dictionary = new ChunkDict(opened.source, { pool, identify: opened.identify })
    return { root: opened.load({ pool }).root, dictionary }
  } finally {
    opened.close()
  }
}
