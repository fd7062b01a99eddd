import tar, { type Extract } from 'tar-stream'
import { fault } from '../../common/fault.js'
import type { ArchiveHeaders } from './archive-headers.js'
import type { ByteStream } from './layer-stream.js'

/** What tar-stream 3.2 cuts an archive with. */
interface Internals {
  _buffer: { shifted: number; buffered: number; shift: (size: number) => Buffer | null }
  _finished: boolean
  _final: (done: (err: unknown) => void) => void
  _consumeHeader: () => boolean
  _decodeLongHeader: (bytes: Buffer) => void
}

/**
 * A tar-stream extractor that leaves its headers to `headers`: that sees each header block first and hands on a plain one,
 * and gets the records about entries as bytes. `fail` hears what is wrong with the archive, which streams that end by it do not
 * always say.
 */
export function createExtract(headers: ArchiveHeaders, fail: (err: unknown) => void): Extract {
  const extract = tar.extract()
  const internals = extract as unknown as Internals
  const buffer = internals._buffer
  // The lock file pins tar-stream and the tests hold this; a silent change would damage what is read.
  const { _consumeHeader, _decodeLongHeader, _final } = internals
  if ([_consumeHeader, _decodeLongHeader, _final, buffer.shift].some(f => typeof f !== 'function'))
    throw fault('INTERNAL', 'this version of tar-stream has no place to read headers from')
  const consumeHeader = _consumeHeader.bind(extract)
  const shift = buffer.shift.bind(buffer)
  const reported = <T>(read: () => T): T => {
    try {
      return read()
    } catch (err) {
      fail(err)
      throw err
    }
  }
  let atHeader = false
  internals._consumeHeader = () => {
    atHeader = true
    const goesOn = consumeHeader()
    atHeader = false
    return goesOn
  }
  buffer.shift = size => {
    const bytes = shift(size)
    if (!atHeader || bytes === null) return bytes
    atHeader = false
    return reported(() => headers.translate(bytes, buffer.shifted))
  }
  internals._decodeLongHeader = bytes => {
    reported(() => {
      headers.takeRecords(bytes)
    })
  }
  internals._final = done => {
    try {
      reported(() => {
        headers.checkEnd(buffer.shifted + buffer.buffered)
      })
      internals._finished = true
      done(null)
    } catch (err) {
      done(err)
    }
  }
  return extract
}

/** Gives the extractor the archive in `source`, and what stands behind the archive's end to nobody. */
export async function feed(source: ByteStream, extract: Extract, headers: ArchiveHeaders): Promise<void> {
  for await (const piece of source) {
    if (headers.ended) continue
    if (extract.destroyed) return
    if (!extract.write(piece)) await drained(extract)
  }
  extract.end(null)
}

function drained(extract: Extract): Promise<void> {
  return new Promise(resolve => {
    const done = (): void => {
      extract.removeListener('drain', done)
      extract.removeListener('close', done)
      resolve()
    }
    extract.on('drain', done)
    extract.on('close', done)
  })
}
