import { fault } from '../../common/fault.js'
import { openSource, openTarget } from '../../image/convert/open-store.js'
import type { ImageSource, ImageTarget } from '../../oci/image-store.js'
import { openLayoutSource } from '../../oci/layout-source.js'
import { type Reference, parseReference } from '../../oci/reference.js'
import { type AccessFlags, pushAccess } from './access-options.js'

const FILE = 'file://'
/** What an image is called in an archive when neither side has a name. */
const UNNAMED = 'localhost/image:latest'

/**
 * Opens both sides, each a reference or `file://` and the path of an OCI archive or layout, and closes them afterwards.
 * @throws REFERENCE_INVALID, USAGE, FILE_*, REGISTRY_*
 */
export async function withImages(
  source: string,
  target: string,
  flags: AccessFlags,
  run: (source: ImageSource, target: ImageTarget) => Promise<void>,
): Promise<void> {
  const from = source.startsWith(FILE) ? undefined : parseReference(source)
  const to = targetOf(target, from)
  const { plainHttp, sourceInsecure, targetInsecure } = flags
  const opened = from
    ? await openSource({ reference: from, insecure: sourceInsecure, plainHttp })
    : await openLayoutSource(source.slice(FILE.length))
  try {
    const into = await openTarget({ ...to, ...pushAccess(flags), insecure: targetInsecure })
    try {
      await run(opened, into)
    } finally {
      await into.close()
    }
  } finally {
    await opened.close()
  }
}

function targetOf(target: string, source: Reference | undefined): { reference: Reference; archive?: string } {
  if (target.startsWith(FILE))
    return { reference: source ?? parseReference(UNNAMED), archive: target.slice(FILE.length) }
  const reference = parseReference(target)
  if (reference.digest === undefined) return { reference }
  throw fault('USAGE', `--target ${target} names a digest: an image is pushed under a tag`)
}

/** The first signal stops the work tidily, the second one at once. */
export function stopSignal(sentence: string): AbortSignal {
  const controller = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      controller.abort(fault('CANCELLED', sentence))
    })
  }
  return controller.signal
}
