import { createCipheriv, createDecipheriv } from 'node:crypto'
import { createRequire } from 'node:module'
import { gunzipSync } from 'node:zlib'
import zstd from 'zstd-napi/binding.js'
import { asFault, fault } from './fault.js'

/**
 * The codecs of RAFS chunks (Nydus on-disk format: compressors, encryption): zstd frames, raw lz4 blocks, gzip members
 * (read only), AES-128-XTS.
 * All are synchronous and hold no state between calls.
 */

/** Chunk compressors; the numbers are the on-disk ids. */
export const COMPRESSORS = { none: 0, lz4_block: 1, gzip: 2, zstd: 3 } as const
export type Compressor = keyof typeof COMPRESSORS

/** Ciphers that blobs may be encrypted with; the numbers are the on-disk ids. */
export const CIPHERS = { none: 0, 'aes-128-xts': 1 } as const

/**
 * Most output that one stored byte can stand for: an lz4 match length grows by at most 255 a byte, a zstd RLE block
 * makes 128 KiB of 4 bytes, deflate makes at most 258 bytes of two bits. A declared size beyond it is a lie, and is refused before memory is set aside for it.
 */
const MAX_EXPANSION = { lz4_block: 255, gzip: 1032, zstd: 32768 } as const

const ZSTD_LEVEL = 3
/** lz4-napi puts the size in front of the block, which chunks do not carry. */
const LZ4_PREFIX = 4

/** Loaded by the first lz4 chunk: it takes 6 MiB, and most images are zstd. */
const loadLz4 = (): typeof import('lz4-napi') => (lz4 ??= require('lz4-napi') as typeof import('lz4-napi'))
const require = createRequire(import.meta.url)
let lz4: typeof import('lz4-napi') | undefined

let decoder: zstd.DCtx | undefined
let encoder: zstd.CCtx | undefined

/**
 * Decompresses to exactly `size` bytes, and never sets aside more memory than that. `none` copies nothing.
 * @throws CHUNK_DECODE
 */
export function decompress(compressor: Compressor, stored: Uint8Array, size: number): Uint8Array {
  if (compressor === 'none') return checkLength(stored, size, compressor)
  if (size > (stored.length + 16) * MAX_EXPANSION[compressor]) {
    throw fault(
      'CHUNK_DECODE',
      `${stored.length} bytes of ${compressor} cannot decompress to the declared ${size} bytes`,
      { context: { compressor, stored: stored.length, size } },
    )
  }
  try {
    return checkLength(DECOMPRESS[compressor](stored, size), size, compressor)
  } catch (err) {
    throw asFault(err, 'CHUNK_DECODE', `${stored.length} bytes of ${compressor} do not decompress`)
  }
}

/** The compressed form: one zstd frame with its content size, or one raw lz4 block. `none` copies nothing. */
export function compress(compressor: Compressor, bytes: Uint8Array): Uint8Array {
  if (compressor === 'none') return bytes
  // Slow, because a slice of a pool would keep the pool.
  const out = Buffer.allocUnsafeSlow(compressBound(bytes.length))
  return out.subarray(0, compressInto(compressor, bytes, out))
}

/** Room that `compressInto` may need for the compressed form of `size` bytes, whatever the compressor. */
export function compressBound(size: number): number {
  return Math.max(zstd.compressBound(size), size + Math.ceil(size / 255) + 16)
}

/** Compresses into `out`, which has room for `compressBound`, and returns the length. */
export function compressInto(
  compressor: Exclude<Compressor, 'none'>,
  bytes: Uint8Array,
  out: Uint8Array,
): number {
  switch (compressor) {
    case 'lz4_block': {
      const packed = loadLz4().compressSync(asBuffer(bytes))
      out.set(packed.subarray(LZ4_PREFIX))
      return packed.length - LZ4_PREFIX
    }
    case 'zstd':
      encoder ??= newEncoder()
      return encoder.compress2(out, bytes)
    case 'gzip':
      throw fault('UNIMPLEMENTED', 'chunks are not written with gzip: use zstd, lz4_block or none')
  }
}

function newEncoder(): zstd.CCtx {
  const context = new zstd.CCtx()
  context.setParameter(zstd.CParameter.compressionLevel, ZSTD_LEVEL)
  return context
}

function zstdDecompress(stored: Uint8Array, size: number): Uint8Array {
  const declared = zstd.getFrameContentSize(stored)
  if (declared !== null && declared !== size)
    throw fault('CHUNK_DECODE', `the zstd frame holds ${declared} bytes where ${size} are declared`)
  decoder ??= new zstd.DCtx()
  const out = Buffer.allocUnsafeSlow(size)
  return out.subarray(0, decoder.decompress(out, stored))
}

function gzipDecompress(stored: Uint8Array, size: number): Uint8Array {
  return gunzipSync(stored, { maxOutputLength: Math.max(size, 1) })
}

/** lz4-napi takes the size in front of the block. */
function lz4Decompress(stored: Uint8Array, size: number): Uint8Array {
  const prefixed = Buffer.allocUnsafeSlow(stored.length + 4)
  prefixed.writeUInt32LE(size, 0)
  prefixed.set(stored, 4)
  return loadLz4().uncompressSync(prefixed)
}

const DECOMPRESS = { zstd: zstdDecompress, lz4_block: lz4Decompress, gzip: gzipDecompress } as const

function checkLength(bytes: Uint8Array, size: number, compressor: Compressor): Uint8Array {
  if (bytes.length === size) return bytes
  throw fault('CHUNK_DECODE', `${compressor} data gives ${bytes.length} bytes where ${size} are declared`, {
    context: { compressor, got: bytes.length, size },
  })
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
}

/** XTS works on at least one block; shorter units are padded to 16 bytes and marked with two more. */
const XTS_BLOCK = 16
const SHORT_UNIT_MARK = [0x78, 0x90] as const

/**
 * AES-128-XTS over whole units: one chunk after compression, one batch, the stored chunk information, its header.
 * Every unit of a blob uses the same key and IV. Key and IV cannot be read back, so that no log can show them.
 */
export class UnitCipher {
  readonly #key: Uint8Array
  readonly #iv: Uint8Array

  /** @param key - 32 bytes whose halves differ. @param iv - 16 bytes. @throws RAFS_FIELD */
  constructor(key: Uint8Array, iv: Uint8Array) {
    if (key.length !== 32 || iv.length !== 16)
      throw fault(
        'RAFS_FIELD',
        `an AES-128-XTS key is 32 bytes and its IV 16, not ${key.length} and ${iv.length}`,
      )
    if (Buffer.compare(key.subarray(0, 16), key.subarray(16)) === 0)
      throw fault(
        'RAFS_FIELD',
        'the two halves of the blob encryption key are equal, which AES-128-XTS forbids',
      )
    this.#key = key.slice()
    this.#iv = iv.slice()
  }

  encrypt(unit: Uint8Array): Uint8Array {
    const cipher = createCipheriv('aes-128-xts', this.#key, this.#iv).setAutoPadding(false)
    return cipher.update(unit.length < XTS_BLOCK ? padShort(unit) : unit)
  }

  /** @throws CHUNK_DECODE for less than 16 bytes */
  decrypt(unit: Uint8Array): Uint8Array {
    if (unit.length < XTS_BLOCK)
      throw fault('CHUNK_DECODE', `an encrypted unit has at least 16 bytes, not ${unit.length}`)
    const decipher = createDecipheriv('aes-128-xts', this.#key, this.#iv).setAutoPadding(false)
    return trimShort(decipher.update(unit))
  }
}

/** Bytes that an encrypted unit of `size` bytes takes. */
export function encryptedSize(size: number): number {
  return size < XTS_BLOCK ? XTS_BLOCK + SHORT_UNIT_MARK.length : size
}

function padShort(unit: Uint8Array): Uint8Array {
  const padded = new Uint8Array(XTS_BLOCK + SHORT_UNIT_MARK.length).fill(
    XTS_BLOCK - unit.length,
    0,
    XTS_BLOCK,
  )
  padded.set(unit)
  padded.set(SHORT_UNIT_MARK, XTS_BLOCK)
  return padded
}

function trimShort(plain: Uint8Array): Uint8Array {
  if (plain.length !== 18 || plain[16] !== SHORT_UNIT_MARK[0] || plain[17] !== SHORT_UNIT_MARK[1])
    return plain
  const padding = plain[15] ?? 0
  const unit = XTS_BLOCK - padding
  const padded = padding > 0 && unit > 0 && plain.subarray(unit, XTS_BLOCK).every(byte => byte === padding)
  return padded ? plain.subarray(0, unit) : plain
}
