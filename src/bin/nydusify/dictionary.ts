import { readFile } from 'node:fs/promises'
import { asFault, fault, hasErrno } from '../../common/fault.js'
import type { BlobPool } from '../../erofs/blob-pool.js'
import { Dictionary } from '../../image/convert/dictionary.js'
import { resolveNydusImage } from '../../image/convert/nydus-image.js'
import { openRegistryStore } from '../../image/convert/open-store.js'
import type { ImageStore } from '../../oci/image-store.js'
import { hostPlatform } from '../../oci/platform.js'
import { parseReference } from '../../oci/reference.js'

const FORM = /^bootstrap:(registry|local):(.+)$/

/**
 * The dictionary that `--chunk-dict` names.
 * @param opened - sees to it that the registry is closed when the conversion is over
 * @throws USAGE, FILE_*, RAFS_*, MANIFEST_UNSUPPORTED for a plain image, REGISTRY_*
 */
export async function openDictionary(
  flags: { chunkDict?: string; chunkDictInsecure: boolean; plainHttp: boolean },
  opened: (opening: Promise<ImageStore>) => Promise<ImageStore>,
  pool: BlobPool,
  signal: AbortSignal,
): Promise<Dictionary | undefined> {
  if (flags.chunkDict === undefined) return undefined
  const [, kind, place = ''] = FORM.exec(flags.chunkDict) ?? []
  if (kind === undefined)
    throw fault('USAGE', '--chunk-dict is bootstrap:registry:REF or bootstrap:local:PATH')
  if (kind === 'local') return new Dictionary(await readBootstrap(place), pool)
  const { chunkDictInsecure: insecure, plainHttp } = flags
  const source = await opened(openRegistryStore({ reference: parseReference(place), insecure, plainHttp }))
  const { bootstrap, manifest, files } = await resolveNydusImage(source, hostPlatform(), signal)
  return new Dictionary(bootstrap, pool, { source, blobs: manifest.layers, files })
}

async function readBootstrap(file: string): Promise<Buffer> {
  try {
    return await readFile(file)
  } catch (err) {
    if (hasErrno(err, 'ENOENT'))
      throw fault('FILE_MISSING', `there is no chunk dictionary ${file}: check the path`, { cause: err })
    throw asFault(err, 'FILE_UNREADABLE', `${file} cannot be read`)
  }
}
