import { readFileSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export interface Version {
  /** Of package.json. */
  readonly version: string
  /** Commit that was built, `unknown` outside a clone. */
  readonly revision: string
  readonly buildTime: string
}

/** What this build is; compiled files lie two folders below dist/, dist/ below the package. */
export function readVersion(): Version {
  const manifest = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')
  const revisionFile = fileURLToPath(new URL('../../revision', import.meta.url))
  return {
    version: (JSON.parse(manifest) as { version: string }).version,
    revision: readFileSync(revisionFile, 'utf8').trim(),
    buildTime: statSync(revisionFile).mtime.toISOString(),
  }
}
