import { fault } from '../../common/fault.js'
import { type PaxRecords, SPARSE_MAP, parseDecimal, parsePaxRecords } from './pax-records.js'
import { OldSparseMap, type SparseExtent, checkMap, parseMapRecord } from './sparse.js'
import { BLOCK, type TarHeader, encodeFrame, isZeroBlock, parseTarHeader } from './tar-header.js'
import { entryFault } from './tar-names.js'

/** What an archive says about an entry, put together from its header and the records before it. */
export interface EntryHeader extends TarHeader {
  readonly records: PaxRecords
  /** Bytes of data in the archive; those of the file itself are `sizeBytes`. */
  readonly storedBytes: number
  /** Of a sparse file; `inData` when the map stands before the data. */
  readonly sparse?: readonly SparseExtent[] | 'inData'
}

/** The most that container runtimes read of the records before an entry. */
const MAX_RECORD_BYTES = 1024 * 1024
const ZERO_BLOCK = Buffer.alloc(BLOCK)
const NO_RECORDS: PaxRecords = new Map()

/**
 * Understands the header blocks of an archive one after the other, and tells the library that cuts the archive into
 * entries only what it needs to cut: how many bytes of data follow.
 *
 * The library's own decoder knows no sparse files, no data-less links, few binary numbers, and ends archives elsewhere than
 * container runtimes do, whose reader (Go's archive/tar) is the measure here.
 */
export class ArchiveHeaders {
  /** Behind two blocks of zeros; whatever follows is not the archive's. */
  ended = false
  #dataEnd = 0
  #name = ''
  #entry: EntryHeader | undefined
  #afterZeros = false
  #records = NO_RECORDS
  #longName = ''
  #longLink = ''
  #recordType = ''
  #sparse: { header: TarHeader; map: OldSparseMap } | undefined

  /** The entry whose header came last. */
  get entry(): EntryHeader {
    if (!this.#entry) throw fault('INTERNAL', 'an entry of the archive came before its header')
    return this.#entry
  }

  /**
   * Takes the next header block, whose data would start at `dataStart`, and returns one for the library: a block of zeros
   * where there is nothing to cut.
   * @throws TAR_INVALID
   */
  translate(block: Buffer, dataStart: number): Buffer {
    if (this.ended) return ZERO_BLOCK
    if (this.#sparse) {
      this.#sparse.map.addBlock(block)
      return this.#finishSparse(dataStart)
    }
    if (isZeroBlock(block)) {
      this.ended = this.#afterZeros
      this.#afterZeros = true
      return ZERO_BLOCK
    }
    const header = parseTarHeader(block)
    if (this.#afterZeros) throw entryFault('TAR_INVALID', header.name, 'follows a lone block of zeros')
    if ('xgLK'.includes(header.type)) return this.#frameRecords(header, dataStart)
    const merged = this.#merge(header)
    if (header.type === 'S' && header.gnu) {
      this.#sparse = { header: merged, map: new OldSparseMap(block, merged.name) }
      this.#setData(merged.name, dataStart)
      return this.#finishSparse(dataStart)
    }
    return this.#frame(withPaxSparse(merged, this.#takeRecords()), dataStart)
  }

  /** Takes the data behind a header that the library took for records. @throws TAR_INVALID */
  takeRecords(bytes: Buffer): void {
    switch (this.#recordType) {
      case 'x':
        this.#records = parsePaxRecords(bytes)
        break
      case 'L':
        this.#longName = untilNul(bytes)
        break
      case 'K':
        this.#longLink = untilNul(bytes)
        break
      case 'g':
        // Container runtimes ignore global records, and those of the next entry that stand before them.
        this.#takeRecords()
        this.#longName = this.#longLink = ''
        break
    }
  }

  /**
   * Whether an archive of `sizeBytes` may end there: two blocks of zeros are not asked for, nor the padding of the last
   * entry, for writers of images leave both away.
   * @throws TAR_INVALID
   */
  checkEnd(sizeBytes: number): void {
    if (this.ended) return
    const padded = Math.ceil(this.#dataEnd / BLOCK) * BLOCK
    if (this.#sparse || sizeBytes < this.#dataEnd)
      throw entryFault('TAR_INVALID', this.#name, 'is cut: the layer ends in the middle of it')
    if (sizeBytes > padded && sizeBytes % BLOCK !== 0)
      throw fault('TAR_INVALID', `the layer ends in the middle of a header (byte ${sizeBytes})`)
  }

  #frameRecords(header: TarHeader, dataStart: number): Buffer {
    const { sizeBytes } = header
    if (!(sizeBytes >= 0 && sizeBytes <= MAX_RECORD_BYTES))
      throw entryFault('TAR_INVALID', header.name, 'is a record of more than 1 MiB about an entry')
    this.#recordType = header.type
    this.#setData(header.name, dataStart + sizeBytes)
    if (sizeBytes > 0) return encodeFrame('x', sizeBytes)
    this.takeRecords(Buffer.alloc(0))
    return ZERO_BLOCK
  }

  /** Long names of GNU's come before those of PAX, and both before the header's. */
  #merge(header: TarHeader): TarHeader {
    if (this.#records.size === 0 && !this.#longName && !this.#longLink && header.type !== '\0') return header
    const value = (key: string, own: number): number => {
      const record = this.#records.get(key)
      return record ? parseDecimal(record) : own
    }
    const name = this.#longName || this.#records.get('path') || header.name
    const linkname = this.#longLink || this.#records.get('linkpath') || header.linkname
    this.#longName = this.#longLink = ''
    return {
      ...header,
      name,
      linkname,
      // The oldest archives mark a directory by a trailing slash alone.
      type: header.type !== '\0' ? header.type : name.endsWith('/') ? '5' : '0',
      uid: value('uid', header.uid),
      gid: value('gid', header.gid),
      sizeBytes: value('size', header.sizeBytes),
    }
  }

  #finishSparse(dataStart: number): Buffer {
    if (!this.#sparse || this.#sparse.map.continues) return ZERO_BLOCK
    const { header, map } = this.#sparse
    this.#sparse = undefined
    const { extents, sizeBytes } = map
    checkMap(extents, sizeBytes, header.sizeBytes, header.name)
    const records = this.#takeRecords()
    const entry = { ...header, type: '0', records, sizeBytes, storedBytes: header.sizeBytes, sparse: extents }
    return this.#frame(entry, dataStart)
  }

  #frame(entry: EntryHeader, dataStart: number): Buffer {
    // Links, devices and directories have no data, whatever size they state.
    const hasData = !'123456'.includes(entry.type)
    const storedBytes = hasData ? entry.storedBytes : 0
    if (!(storedBytes >= 0)) throw entryFault('TAR_INVALID', entry.name, 'has no valid size')
    this.#setData(entry.name, dataStart + storedBytes)
    this.#entry = entry
    return encodeFrame('0', storedBytes)
  }

  #setData(name: string, end: number): void {
    this.#name = name
    this.#dataEnd = end
  }

  #takeRecords(): PaxRecords {
    const records = this.#records
    this.#records = NO_RECORDS
    return records
  }
}

/** GNU's sparse files in PAX archives (formats 0.0, 0.1 and 1.0); others are read as they are stored. */
function withPaxSparse(header: TarHeader, records: PaxRecords): EntryHeader {
  const storedBytes = header.sizeBytes
  const { type, name: ownName, linkname, mode, uid, gid, mtimeSec, major, minor, gnu } = header
  const plain: EntryHeader = {
    type,
    name: ownName,
    linkname,
    mode,
    uid,
    gid,
    sizeBytes: storedBytes,
    mtimeSec,
    major,
    minor,
    gnu,
    records,
    storedBytes,
  }
  if (records.size === 0) return plain
  const version = [records.get('GNU.sparse.major'), records.get('GNU.sparse.minor')].join('.')
  const map = records.get(SPARSE_MAP)
  const inData = version === '1.0'
  const inRecords = version === '0.0' || version === '0.1' || (version === '.' && map !== undefined)
  if (!inData && !inRecords) return plain
  const name = records.get('GNU.sparse.name') || header.name
  const size = records.get('GNU.sparse.size') || records.get('GNU.sparse.realsize')
  const sizeBytes = size ? parseDecimal(size) : storedBytes
  if (inData) return { ...plain, name, sizeBytes, sparse: 'inData' }
  const extents = parseMapRecord(map ?? '', records.get('GNU.sparse.numblocks') ?? '', name)
  checkMap(extents, sizeBytes, storedBytes, name)
  return { ...plain, name, sizeBytes, sparse: extents }
}

function untilNul(bytes: Buffer): string {
  const nul = bytes.indexOf(0)
  return bytes.toString('latin1', 0, nul < 0 ? bytes.length : nul)
}
