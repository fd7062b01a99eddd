import type { RafsImage } from './image-tree.js'
import { encodeBootstrapV5 } from './v5/writer.js'
import {
  type BootstrapPieces,
  type EncodedBootstrap,
  encodeBootstrap,
  encodeBootstrapPieces,
} from './writer.js'

/**
 * The bootstrap of an image, in the image's own version. Which blobs it has and their order follow from the tree.
 * Equal images give equal bytes. @throws IMAGE_TOO_LARGE, IMAGE_INVALID
 */
export function encodeImage(image: Omit<RafsImage, 'blobs'>): EncodedBootstrap {
  return image.version === 5 ? encodeBootstrapV5(image.root, image) : encodeBootstrap(image.root, image)
}

/** The same in pieces where the version has them: for images whose bootstrap is large beside the memory. */
export function encodeImagePieces(image: Omit<RafsImage, 'blobs'>): BootstrapPieces {
  if (image.version === 6) return encodeBootstrapPieces(image.root, image)
  const { bytes, blobs } = encodeBootstrapV5(image.root, image)
  return { pieces: [bytes], blobs }
}
