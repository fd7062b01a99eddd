/** What one layer may make of itself. They bound memory and disk against a hostile image. */
export interface LayerLimits {
  /** Uncompressed bytes of the archive. */
  readonly maxBytes: number
  /** Uncompressed bytes for each compressed byte, enforced beyond `ratioFloorBytes`. */
  readonly maxRatio: number
  readonly ratioFloorBytes: number
  /** Entries of the archive and the parent directories they imply. */
  readonly maxEntries: number
  /** Bytes of names, link targets and extended attributes together. */
  readonly maxMetadataBytes: number
}

/**
 * gzip packs zeros 1,030 times: a file of zeros is legitimate, but gigabytes of them are not what images are made of.
 */
export const DEFAULT_LIMITS: LayerLimits = {
  maxBytes: 64 * 2 ** 30,
  maxRatio: 200,
  ratioFloorBytes: 512 * 2 ** 20,
  maxEntries: 1_000_000,
  maxMetadataBytes: 256 * 2 ** 20,
}
