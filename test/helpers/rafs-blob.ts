import { createHash } from 'node:crypto'
import { COMPRESSORS, UnitCipher, compress, type Compressor } from '../../src/common/codec.js'
import { digestOf, type Digester } from '../../src/common/digest.js'
import * as F from '../../src/erofs/format.js'

export interface TestImageOptions {
  compressor?: Compressor
  digester?: Digester
  /** Chunk infos of version 2. */
  v2?: boolean
  /** Puts runs of this many chunks into a batch. */
  batch?: number
  key?: { key: Uint8Array; iv: Uint8Array }
  chunkSize?: number
  chunkTable?: boolean
  prefetch?: number[]
}

export type Resolved = TestImageOptions & {
  compressor: Compressor
  digester: Digester
  v2: boolean
  chunkSize: number
}

export interface Chunk {
  bytes: Uint8Array
  digest: Uint8Array
  offset: number
  stored: Uint8Array
  storedOffset: number
  batch?: { index: number; offset: number }
}

export interface Blob {
  bytes: Buffer
  id: string
  ciOffset: number
  ciStored: number
  ciSize: number
  uncompressedSize: number
}

/** Cuts the files into chunks, which it adds to `chunks`, and stores them with their metadata. */
export function buildBlob(files: Uint8Array[], chunks: Chunk[], o: Resolved): Blob {
  const cipher = o.key && new UnitCipher(o.key.key, o.key.iv)
  const pack = (bytes: Uint8Array): Uint8Array => {
    const packed = compress(o.compressor, bytes)
    const smaller = packed.length < bytes.length ? packed : bytes
    return cipher?.encrypt(smaller) ?? smaller
  }
  let address = 0
  for (const data of files) {
    for (let at = 0; at < data.length; at += o.chunkSize) {
      const bytes = data.subarray(at, at + o.chunkSize)
      const digest = digestOf(o.digester, bytes)
      chunks.push({ bytes, digest, offset: address, stored: pack(bytes), storedOffset: 0 })
      address += F.alignUp(bytes.length, 4096)
    }
  }
  const parts: Uint8Array[] = []
  let position = 0
  const contexts: { compressed: number; uncompressed: number }[] = []
  for (let first = 0; first < chunks.length;) {
    const members = chunks.slice(first, first + (o.batch ?? 1))
    let stored = members[0]!.stored
    if (o.batch !== undefined) {
      const joined = Buffer.concat(members.map(member => member.bytes))
      stored = pack(joined)
      let offset = 0
      for (const member of members) {
        member.batch = { index: contexts.length, offset }
        offset += member.bytes.length
      }
      contexts.push({ compressed: stored.length, uncompressed: joined.length })
    }
    for (const member of members) member.storedOffset = position
    parts.push(stored)
    position += stored.length
    first += members.length
  }
  const info = encodeInfo(chunks, contexts, o)
  const packedInfo = compress(o.compressor, info)
  const ciPlain = packedInfo.length < info.length ? packedInfo : info
  const ciStored = cipher && ciPlain.length > 0 ? cipher.encrypt(ciPlain) : ciPlain
  const header = encodeHeader(chunks.length, contexts.length, position, ciStored.length, info.length, o)
  const bytes = Buffer.concat([...parts, ciStored, cipher?.encrypt(header) ?? header])
  const id = createHash('sha256').update(bytes).digest('hex')
  return {
    bytes,
    id,
    ciOffset: position,
    ciStored: ciStored.length,
    ciSize: info.length,
    uncompressedSize: address,
  }
}

function encodeInfo(
  chunks: Chunk[],
  contexts: { compressed: number; uncompressed: number }[],
  o: Resolved,
): Buffer {
  const size = o.v2 ? 24 : 16
  const info = Buffer.alloc(chunks.length * size + contexts.length * 40)
  for (const [index, chunk] of chunks.entries()) {
    const at = index * size
    const usize = BigInt(chunk.bytes.length - 1)
    if (!o.v2) {
      const csize = BigInt(chunk.stored.length - 1)
      info.writeBigUInt64LE(BigInt(chunk.offset) | ((usize & 0xfffffn) << 44n) | ((usize >> 20n) << 8n), at)
      info.writeBigUInt64LE(
        BigInt(chunk.storedOffset) | ((csize & 0xfffffn) << 44n) | ((csize >> 20n) << 40n),
        at + 8,
      )
      continue
    }
    const shrunk = compress(o.compressor, chunk.bytes).length < chunk.bytes.length
    const flags = (shrunk ? 1 : 0) | (chunk.batch ? 4 : 0) | (o.key ? 8 : 0)
    info.writeBigUInt64LE(BigInt(chunk.offset >> 12) | (usize << 32n) | (BigInt(flags) << 56n), at)
    const csize = chunk.batch ? 0 : chunk.stored.length
    info.writeBigUInt64LE(BigInt(chunk.storedOffset) | (BigInt(csize) << 40n), at + 8)
    if (chunk.batch) {
      info.writeUInt32LE(chunk.batch.offset, at + 16)
      info.writeUInt32LE(chunk.batch.index, at + 20)
    }
  }
  for (const [index, context] of contexts.entries()) {
    info.writeUInt32LE(context.compressed, chunks.length * size + index * 40)
    info.writeUInt32LE(context.uncompressed, chunks.length * size + index * 40 + 4)
  }
  return info
}

export function features(o: Resolved): number {
  return 1 | (o.v2 ? 4 : 0) | (o.batch === undefined ? 0 : 0x80) | (o.key ? 0x100 : 0) | 0x40000000
}

function encodeHeader(
  chunks: number,
  contexts: number,
  offset: number,
  stored: number,
  size: number,
  o: Resolved,
): Buffer {
  const header = Buffer.alloc(4096)
  header.writeUInt32LE(0xb10bb10b, 0)
  header.writeUInt32LE(features(o), 4)
  header.writeUInt32LE(COMPRESSORS[o.compressor], 8)
  header.writeUInt32LE(chunks, 12)
  header.writeBigUInt64LE(BigInt(offset), 16)
  header.writeBigUInt64LE(BigInt(stored), 24)
  header.writeBigUInt64LE(BigInt(size), 32)
  if (contexts > 0) {
    header.writeBigUInt64LE(BigInt(chunks * 24), 40)
    header.writeBigUInt64LE(BigInt(contexts * 40), 48)
    header.writeUInt32LE(contexts, 56)
  }
  header.writeUInt32LE(0xb10bb10b, 4092)
  return header
}
