import { writeFileSync } from 'node:fs'
import { asFault } from '../../common/fault.js'
import { readVersion } from '../../common/version.js'

export interface ImageReport {
  /** Path of the bootstrap; empty when it lies in a blob only. */
  readonly bootstrap: string
  /** In blob table order; layers without data have none. */
  readonly blobIds: readonly string[]
  readonly version: 5 | 6
  readonly compressor: string
  /** Upstream's check writes one line, its builders many. */
  readonly pretty: boolean
}

/**
 * Writes the report of a command in upstream's keys (rafs.md 6.5); its consumers read `blobs`, `fs_version` and
 * `compressor`. @throws FILE_UNREADABLE
 */
export function writeReport(file: string, report: ImageReport): void {
  const { version, revision } = readVersion()
  const document = {
    version: `${version}-${revision}`,
    bootstrap: report.bootstrap,
    blobs: report.blobIds,
    external_bootstrap: '',
    external_blobs: [],
    trace: { consumed_time: {}, registered_events: {} },
    fs_version: String(report.version),
    compressor: report.compressor,
  }
  try {
    writeFileSync(file, `${JSON.stringify(document, null, report.pretty ? 2 : undefined)}\n`)
  } catch (err) {
    throw asFault(err, 'FILE_UNREADABLE', `the work is done, but its report ${file} cannot be written`)
  }
}
