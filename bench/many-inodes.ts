/** Bootstraps of layers with many small files, as package managers leave them; nothing but metadata. */
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { emptyBlob } from '../src/erofs/empty-blob.js'
import { encodeImage } from '../src/erofs/encode-image.js'
import type { DirectoryInode, ImageBlob, ImageInode } from '../src/erofs/image-tree.js'

const FILES_IN_DIRECTORY = 19
const CHUNK_SIZE = 1 << 20
const KIND = {
  version: 6,
  chunkSize: CHUNK_SIZE,
  compressor: 'zstd',
  digester: 'blake3',
  explicitOwners: true,
} as const

/**
 * Writes the bootstraps of `layers` layers with `inodes` inodes each into the directory and returns their paths, lowest
 * first. Layers share their upper directories; each replaces some files of the one below and deletes one.
 */
export function writeLayers(directory: string, layers: number, inodes: number): string[] {
  return Array.from({ length: layers }, (_, layer) => {
    const file = path.join(directory, `layer-${layer}.boot`)
    const root = makeLayer(layer, inodes)
    writeFileSync(file, encodeImage({ ...KIND, root, prefetch: [] }).bytes)
    return file
  })
}

/** The tree of one layer. */
export function makeLayer(layer: number, inodes: number): DirectoryInode {
  const blob = newBlob(layer)
  const root = newDirectory()
  const modules = below(below(below(root, 'usr'), 'lib'), 'node_modules')
  for (let made = 4, package_ = 0; made < inodes; package_++) {
    const directory = below(modules, `package-${layer}-${package_}`)
    made++
    for (let file = 0; file < FILES_IN_DIRECTORY && made < inodes; file++, made++)
      directory.children.set(`module-${file}.js`, newFile(blob, file))
  }
  if (layer > 0) {
    const lower = below(modules, `package-${layer - 1}-0`)
    lower.children.set('module-0.js', newFile(blob, 0))
    lower.children.set('.wh.module-1.js', newFile(blob, 1))
  }
  return root
}

function below(directory: DirectoryInode, name: string): DirectoryInode {
  const child = newDirectory()
  directory.children.set(name, child)
  return child
}

const attributes = { uid: 0, gid: 0, mtimeSec: 1_700_000_000, mtimeNsec: 0 }

function newDirectory(): DirectoryInode {
  return { ...attributes, type: 'directory', mode: 0o755, implicit: false, children: new Map() }
}

/** One file in twenty is a link, the others have one chunk each. */
function newFile(blob: ImageBlob, file: number): ImageInode {
  if (file === 7) return { ...attributes, type: 'symlink', mode: 0o777, target: Buffer.from('module-0.js') }
  const index = blob.chunkCount++
  const sizeBytes = 500 + ((index * 104_729) % 20_000)
  const chunk = {
    blob,
    index,
    digest: createHash('sha256').update(`${blob.id}/${index}`).digest('hex'),
    uncompressedOffset: blob.uncompressedSize,
    uncompressedSize: sizeBytes,
    compressedOffset: blob.ciOffset,
    compressedSize: sizeBytes >>> 1,
  }
  blob.uncompressedSize += Math.ceil(sizeBytes / 4096) * 4096
  blob.ciOffset += chunk.compressedSize
  blob.compressedSize = blob.ciOffset
  blob.ciCompressedSize = blob.ciUncompressedSize = blob.chunkCount * 16
  return { ...attributes, type: 'regular', mode: 0o644, sizeBytes, chunks: [chunk] }
}

function newBlob(layer: number): ImageBlob {
  return emptyBlob({
    id: createHash('sha256').update(`layer ${layer}`).digest('hex'),
    chunkSize: CHUNK_SIZE,
    compressor: 'zstd',
    digester: 'blake3',
    features: 0x70000021,
  })
}
