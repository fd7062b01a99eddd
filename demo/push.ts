import { createReadStream, readFileSync } from 'node:fs'
import path from 'node:path'
import { parseManifest } from '../src/oci/manifest.js'
import { formatReference, manifestSelector, parseReference } from '../src/oci/reference.js'
import { RegistryClient } from '../src/oci/registry-client.js'
import { MEDIA_TYPE } from '../src/oci/media-types.js'

/** Puts the one image of an OCI layout into a registry. */
export async function pushLayout(directory: string, target: string): Promise<void> {
  const reference = parseReference(target)
  const blob = (digest: string): string => path.join(directory, 'blobs/sha256', digest.slice(7))
  const index = parseManifest(
    readFileSync(path.join(directory, 'index.json')),
    MEDIA_TYPE.ociIndex,
    directory,
  )
  const descriptor = index.kind === 'index' ? index.manifests[0] : undefined
  if (!descriptor) throw new Error(`${directory} holds no image`)
  const bytes = readFileSync(blob(descriptor.digest))
  const manifest = parseManifest(bytes, descriptor.mediaType, formatReference(reference))
  if (manifest.kind !== 'manifest') throw new Error(`${directory} holds an index in an index`)
  const registry = new RegistryClient({ host: reference.domain })
  try {
    for (const expected of [manifest.config, ...manifest.layers]) {
      await registry.uploadBlob(reference.repository, createReadStream(blob(expected.digest)), { expected })
    }
    await registry.putManifest(reference.repository, manifestSelector(reference), descriptor.mediaType, bytes)
  } finally {
    await registry.close()
  }
}
