import { createHash } from 'node:crypto'
import { gunzipSync } from 'node:zlib'
import { MEDIA_TYPE } from '../../src/oci/media-types.js'
import type { RegistryClient } from '../../src/oci/registry-client.js'

export interface PushedLayer {
  bytes: Uint8Array
  mediaType?: string
  /** Of the tar inside; default: of the gunzipped bytes. */
  diffId?: string
}

export interface PushOptions {
  docker?: boolean
  architecture?: string
  config?: Record<string, unknown>
}

export const digestOfBytes = (bytes: Uint8Array): string =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`

/** Puts an image made of these layers into a registry; gives its manifest's digest and size. */
export async function pushImage(
  client: RegistryClient,
  repository: string,
  tag: string,
  layers: PushedLayer[],
  options: PushOptions = {},
): Promise<{ digest: string; size: number; mediaType: string }> {
  const upload = async (bytes: Uint8Array): Promise<{ digest: string; size: number }> =>
    client.uploadBlob(repository, [bytes])
  const config = Buffer.from(
    JSON.stringify({
      architecture: options.architecture ?? 'amd64',
      os: 'linux',
      config: { Cmd: ['/bin/sh'], Env: ['A=b'] },
      history: layers.map((_, i) => ({ created_by: `layer ${i}` })),
      rootfs: { type: 'layers', diff_ids: layers.map(l => l.diffId ?? digestOfBytes(plain(l.bytes))) },
      ...options.config,
    }),
  )
  const mediaType = options.docker ? MEDIA_TYPE.dockerManifest : MEDIA_TYPE.ociManifest
  const layerType = options.docker ? MEDIA_TYPE.dockerLayerGzip : MEDIA_TYPE.ociLayerGzip
  const manifest = {
    schemaVersion: 2,
    mediaType,
    config: {
      mediaType: options.docker ? MEDIA_TYPE.dockerConfig : MEDIA_TYPE.ociConfig,
      ...(await upload(config)),
    },
    layers: await Promise.all(
      layers.map(async l => ({ mediaType: l.mediaType ?? layerType, ...(await upload(l.bytes)) })),
    ),
  }
  return client.putManifest(repository, tag, mediaType, Buffer.from(JSON.stringify(manifest)))
}

function plain(bytes: Uint8Array): Uint8Array {
  return bytes[0] === 0x1f ? gunzipSync(bytes) : bytes
}
