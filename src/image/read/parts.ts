/** How a check says what is wrong: the part of the image, where it stands, and what to do. */
import { asFault, Fault, fault, type FaultCode } from '../../common/fault.js'

/** Parts of a bootstrap, then of a blob. Every fault of a check has one of them in its context, as `part`. */
export type Part = BootstrapPart | BlobPart
export type BootstrapPart =
  | 'superblock'
  | 'device table'
  | 'blob table'
  | 'prefetch table'
  | 'chunk table'
  | 'inode table'
  | 'inode'
  | 'dirent'
  | 'xattr'
  | 'chunk index'
  | 'bootstrap'
export type BlobPart = 'blob file' | 'tar header' | 'TOC' | 'blob meta' | 'blob digest' | 'chunk data'

const ADVICE = {
  bootstrap: 'fetch the bootstrap again, or build the image anew',
  blob: 'fetch the blob again, or build the image anew',
} as const
const BLOB_PARTS: ReadonlySet<string> = new Set<BlobPart>([
  'blob file',
  'tar header',
  'TOC',
  'blob meta',
  'blob digest',
  'chunk data',
])

/**
 * A fault of a part.
 * @param offset - of the part or of the field, from the start of the bootstrap or of the blob
 * @param problem - what is wrong, with the field's name and value
 */
export function partFault(
  part: Part,
  offset: number,
  problem: string,
  code: FaultCode = 'RAFS_FIELD',
  context: Record<string, unknown> = {},
): Fault {
  return fault(code, `${part} at byte ${offset}: ${problem}; ${adviceFor(part)}`, {
    context: { ...context, part, offset },
  })
}

/** A field of a bootstrap with a value that it cannot have. */
export function badPart(
  part: BootstrapPart,
  at: number,
  field: string,
  value: number | string,
  why: string,
): Fault {
  return partFault(part, at, `field ${field} is ${value}: ${why}`)
}

/** Names the part in whatever a parser of it throws. */
export function inPart<T>(part: Part, parse: () => T): T {
  try {
    return parse()
  } catch (err) {
    throw named(part, err)
  }
}

/** The fault with the part in its sentence and its context; one that has a part already stays as it is. */
export function named(part: Part, err: unknown): Fault {
  const failure = asFault(err)
  if (failure.context['part'] !== undefined || failure.kind !== 'corrupt') return failure
  const { code, message, context } = failure
  const advice = message.includes('again') ? '' : `; ${adviceFor(part)}`
  return new Fault(code, `${part}: ${message}${advice}`, { cause: err, context: { ...context, part } })
}

function adviceFor(part: Part): string {
  return BLOB_PARTS.has(part) ? ADVICE.blob : ADVICE.bootstrap
}
