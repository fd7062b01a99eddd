/**
 * Tar archives built block by block, because the interesting ones are those that no library would write.
 */

export interface TarItem {
  name: string | Buffer
  type?: string
  mode?: number
  uid?: number
  gid?: number
  mtime?: number
  linkname?: string | Buffer
  /** Octal text of the device fields; empty leaves them empty, as some tools do. */
  device?: [major: string, minor: string]
  body?: Buffer
  /** PAX records of the entry, values as bytes. */
  pax?: Record<string, string | Buffer>
  /** Lies about the size of the body. */
  size?: number
  /** Changes the header before its checksum is taken. */
  patch?: (header: Buffer) => void
  /** Blocks between the header and the body. */
  extension?: Buffer
}

const BLOCK = 512

/** A whole archive, ended by two blocks of zeros. */
export function tarBytes(items: TarItem[]): Buffer {
  return Buffer.concat([...items.map(tarItem), Buffer.alloc(2 * BLOCK)])
}

/** One entry: its PAX records, header and padded body. */
export function tarItem(item: TarItem): Buffer {
  const parts: Buffer[] = []
  if (item.pax) {
    const records = paxRecords(item.pax)
    parts.push(header({ name: 'pax', type: 'x' }, records.length), padded(records))
  }
  const body = item.body ?? Buffer.alloc(0)
  parts.push(header(item, item.size ?? body.length), item.extension ?? Buffer.alloc(0), padded(body))
  return Buffer.concat(parts)
}

/** GNU's record for a name that is too long for a header. */
export function gnuLongName(name: string | Buffer, type: 'L' | 'K' = 'L'): Buffer {
  const bytes = Buffer.concat([Buffer.from(name), Buffer.alloc(1)])
  return Buffer.concat([header({ name: '././@LongLink', type }, bytes.length), padded(bytes)])
}

export function paxRecords(records: Record<string, string | Buffer>): Buffer {
  return Buffer.concat(
    Object.entries(records).map(([key, value]) => {
      const body = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value as string), Buffer.from('\n')])
      let length = body.length
      while (String(length).length + body.length !== length) length = String(length).length + body.length
      return Buffer.concat([Buffer.from(String(length)), body])
    }),
  )
}

function header(item: TarItem, size: number): Buffer {
  const out = Buffer.alloc(BLOCK)
  Buffer.from(item.name as string).copy(out, 0, 0, 100)
  out.write((item.mode ?? 0o644).toString(8).padStart(7, '0'), 100)
  id(out, 108, item.uid ?? 0)
  id(out, 116, item.gid ?? 0)
  if (size < 2 ** 33) {
    out.write(size.toString(8).padStart(11, '0'), 124)
  } else {
    out.writeUInt8(0x80, 124)
    out.writeBigUInt64BE(BigInt(size), 128)
  }
  const mtime = item.mtime ?? 1_600_000_000
  if (mtime < 0) {
    out.fill(0xff, 136, 148)
    out.writeBigInt64BE(BigInt(mtime), 140)
  } else {
    out.write(mtime.toString(8).padStart(11, '0'), 136)
  }
  out.write(item.type ?? '0', 156)
  if (item.linkname !== undefined) Buffer.from(item.linkname as string).copy(out, 157, 0, 100)
  out.write('ustar\u000000', 257, 'latin1')
  if (item.device) {
    out.write(item.device[0], 329)
    out.write(item.device[1], 337)
  }
  item.patch?.(out)
  out.fill(' ', 148, 156)
  const sum = out.reduce((total, byte) => total + byte, 0)
  out.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return out
}

function id(out: Buffer, at: number, value: number): void {
  if (value < 0) {
    out.writeBigInt64BE(BigInt(value), at)
  } else if (value <= 0o7777777) {
    out.write(value.toString(8).padStart(7, '0'), at)
  } else {
    out.writeUInt8(0x80, at)
    out.writeUInt32BE(value, at + 4)
  }
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK)])
}

/** The bytes in pieces of `size`, as a stream gives them. */
export async function* pieces(bytes: Uint8Array, size = 1000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}
