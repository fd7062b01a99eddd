import { fault } from '../common/fault.js'
import type { RafsImage } from './image-tree.js'
import { type EncodedBootstrap, encodeBootstrap } from './writer.js'

/**
 * The bootstrap of an image, in the image's own version. Which blobs it has and their order follow from the tree.
 * Equal images give equal bytes. @throws IMAGE_TOO_LARGE, IMAGE_INVALID
 */
export function encodeImage(image: Omit<RafsImage, 'blobs'>): EncodedBootstrap {
  if (image.version === 5)
    throw fault('UNIMPLEMENTED', 'images of RAFS v5 are not written yet: build one of version 6')
  return encodeBootstrap(image.root, image)
}
