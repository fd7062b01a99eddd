import { Option } from 'commander'
import { fault } from '../../common/fault.js'
import { openSource, openTarget } from '../../image/convert/open-store.js'
import type { ImageSource, ImageTarget } from '../../oci/image-store.js'
import { openLayoutSource } from '../../oci/layout-source.js'
import { type Reference, parseReference } from '../../oci/reference.js'
import { parseCount, parseDelay, pushChunkSizeOption } from './convert-options.js'

/** Flags of commands that read one image and write another. */
export interface AccessFlags {
  sourceInsecure: boolean
  targetInsecure: boolean
  plainHttp: boolean
  pushRetryCount: number
  pushRetryDelay: number
  pushChunkSize: number
}

export function accessOptions(): Option[] {
  return [
    new Option('--source-insecure', 'accept any certificate of the source, or plain HTTP').default(false),
    new Option('--target-insecure', 'accept any certificate of the target, or plain HTTP').default(false),
    new Option('--plain-http', 'speak plain HTTP to both registries').default(false),
    new Option('--push-retry-count <n>', 'retries of a push').argParser(parseCount).default(3),
    new Option('--push-retry-delay <duration>', 'first wait between them')
      .argParser(parseDelay)
      .default(5000, '5s'),
    pushChunkSizeOption(),
  ]
}

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
    const { pushRetryCount: retryLimit, pushRetryDelay: retryDelayMs, pushChunkSize: pushChunkBytes } = flags
    const push = { plainHttp, insecure: targetInsecure, retryLimit, retryDelayMs, pushChunkBytes }
    const into = await openTarget({ ...to, ...push })
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
