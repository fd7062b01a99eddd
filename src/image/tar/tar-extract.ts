import tar, { type Extract, type Header } from 'tar-stream'
import { fault } from '../../common/fault.js'

/** A header of tar-stream, and what its types leave out. */
export type RawHeader = Omit<Header, 'type' | 'linkname' | 'pax'> & {
  /** null for a type that tar-stream does not know. */
  type: Header['type'] | null
  linkname: string | null
  pax: Record<string, string> | null
  /** Where the entry's data starts in the archive. */
  byteOffset: number
}

export interface ByteExactExtract {
  readonly extract: Extract
  /** Bytes of PAX and long-name records since the last call, headers and padding included. */
  takeRecordBytes: () => number
}

/** What `_decodeLongHeader` of tar-stream 3.2 works on. */
interface Internals {
  _header: { type: string } | null
  _pax: Record<string, string> | null
  _decodeLongHeader(bytes: Buffer): void
}

const BLOCK = 512
/** The first is documented, but missing in tar-stream's own types. */
const OPTIONS = { filenameEncoding: 'latin1', allowUnknownFormat: true } as object

/**
 * A tar-stream extractor whose names, link names and PAX values are byte strings (`latin1`).
 *
 * `filenameEncoding` covers the header fields and GNU's long names, but tar-stream decodes PAX records as UTF-8, which
 * destroys binary extended attributes and names that are not UTF-8. So its record decoder is replaced for those.
 */
export function createByteExactExtract(): ByteExactExtract {
  const extract = tar.extract(OPTIONS)
  const internals = extract as unknown as Internals
  // The lock file pins tar-stream and the tests hold this; a silent change would damage names.
  if (typeof internals._decodeLongHeader !== 'function')
    throw fault('INTERNAL', 'this version of tar-stream has no place to decode PAX records by bytes')
  const decodeLongHeader = internals._decodeLongHeader.bind(extract)
  let recordBytes = 0
  internals._decodeLongHeader = bytes => {
    recordBytes += BLOCK + Math.ceil(bytes.length / BLOCK) * BLOCK
    const type = internals._header?.type
    if (type === 'pax-header') internals._pax = parsePaxRecords(bytes)
    // Container runtimes ignore global records, so a layer must not look different here.
    else if (type !== 'pax-global-header') decodeLongHeader(bytes)
  }
  return {
    extract,
    takeRecordBytes: () => {
      const bytes = recordBytes
      recordBytes = 0
      return bytes
    },
  }
}

/** PAX records (`LENGTH KEY=VALUE\n`), keys and values as byte strings. @throws TAR_INVALID */
export function parsePaxRecords(bytes: Buffer): Record<string, string> {
  const records: Record<string, string> = {}
  for (let at = 0; at < bytes.length;) {
    const space = bytes.indexOf(0x20, at)
    const digits = space < 0 ? '' : bytes.toString('latin1', at, Math.min(space, at + 11))
    const length = /^[0-9]{1,10}$/.test(digits) ? Number(digits) : 0
    const end = at + length
    const equals = bytes.indexOf(0x3d, space)
    if (end > bytes.length || equals < 0 || equals >= end || bytes[end - 1] !== 0x0a)
      throw fault('TAR_INVALID', `the layer has a malformed PAX record (byte ${at} of ${bytes.length})`)
    records[`${bytes.toString('latin1', space + 1, equals)}`] = bytes.toString('latin1', equals + 1, end - 1)
    at = end
  }
  return records
}
